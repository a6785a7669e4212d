"""Makes tables and plots of the benchmarks' results.

    make bench ARGS=publish
    python benchmarks/publish.py

It reads .benchmarks/*.json, and writes results.rst with its SVG files to docs/benchmarks/, and the
failover table of README.rst.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from front_page import FAULTS, write
from matplotlib import pyplot as plt

__all__ = ("main",)

_ROOT = Path(__file__).parent.parent
_RESULTS = _ROOT / ".benchmarks"
_DOCS = _ROOT / "docs" / "benchmarks"
_OURS, _PEER = "#336791", "#c8c8c8"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a table of reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (heads, *rows):
        lines += [f"   {'* ' if not i else '  '}- {cell}" for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def _save(figure: Any, name: str) -> None:
    # No date in the file, so that it changes only if the figures do.
    figure.savefig(_DOCS / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(width, height))
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def acquire(results: list[dict[str, Any]]) -> str:
    """Show the cost of acquire and release."""

    def cell(ratio: dict[str, float] | None) -> str:
        return "" if ratio is None else f"{ratio['median']:.2f} / {ratio['of_minima']:.2f}"

    heads = "driver", "loop", "case", "bare, us", "ours", "0.10.0", "ours adds / 0.10.0 adds"
    rows = [
        (
            *(each["driver"], each["loop"], each["case"], f"{each['bare_us']:.0f}"),
            *(cell(each.get(name)) for name in ("ours", "peer", "share")),
        )
        for each in results
    ]
    shown = [each for each in results if each["case"].startswith("1 of") and "peer" in each]
    figure, axes = _figure(8, 0.42 * len(shown) + 1)
    for row, each in enumerate(shown):
        axes.barh(row - 0.2, each["ours"]["median"], 0.38, color=_OURS)
        axes.barh(row + 0.2, each["peer"]["median"], 0.38, color=_PEER)
    axes.set_yticks(range(len(shown)))
    axes.set_yticklabels([f"{e['driver']}, {e['loop']}: {e['case']}" for e in shown])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("acquire and release, times the driver's own pool (blue: ours, grey: 0.10.0)")
    _save(figure, "acquire")
    return (
        "Acquire and release\n-------------------\n\n"
        "``make bench ARGS=acquire``. Times what the driver's own pool takes, median over the\n"
        "rounds / ratio of the shortest laps. A case is `tasks` of `connections`, what is done\n"
        "with the connection, and whether the pool resets it.\n\n"
        ".. image:: acquire.svg\n\n" + table(heads, rows)
    )


def threads(results: list[dict[str, Any]]) -> str:
    """Show the cost of acquire and release in threads."""
    heads = "driver", "case", "bare, us", "added, us", "times bare"
    rows = [
        (
            *(each["driver"], each["case"], f"{each['bare_us']:.0f}", f"{each['added_us']:.1f}"),
            f"{each['ours']['median']:.2f} / {each['ours']['of_minima']:.2f}",
        )
        for each in results
    ]
    return (
        "Threads\n-------\n\n"
        "``make bench ARGS=threads``. Beside the driver's own pool, median over the rounds /\n"
        "ratio of the shortest laps. A case is `threads` of `connections`, and what is done with\n"
        "the connection.\n\n" + table(heads, rows)
    )


def load_control(results: dict[str, Any]) -> str:
    """Show what load control costs, and its effect in an overload."""
    costs = [
        (name, f"{added:.1f}", f"{results['threads'][name]:.1f}")
        for name, added in results["tasks"].items()
    ]

    def milliseconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.0f}"

    overload = [
        (
            *(name, f"{part['good_a_second']:.0f}", f"{part['share_of_best']:.0%}"),
            *(milliseconds(part["critical_p99_ms"]), milliseconds(max(0.0, part["latest_ms"]))),
            str(part["outcomes"].get("OverloadedError", 0)),
        )
        for name, part in results["overload"].items()
    ]
    heads = (
        *("requests arrive", "done in time a second", "of the best", "critical, p99 ms"),
        *("late ms", "refused"),
    )
    return (
        "Load control\n------------\n\n"
        "``make bench ARGS=load_control``. Microseconds of the processor that an acquire and its\n"
        "release take longer with one feature on.\n\n"
        + table(("feature", "tasks, us", "threads, us"), costs)
        + "\nAn overload of one server, whose work waits and needs no processor, in laps that\n"
        "take turns; each request has half a second. How many were done in time; and by how much\n"
        "a request has waited beyond its deadline at most.\n\n" + table(heads, overload)
    )


def runs(results: list[dict[str, Any]]) -> str:
    """Show what `run` costs compared with the same transaction written by hand."""

    def added(figures: dict[str, float]) -> str:
        return f"{figures['median']:.1f} / {figures['of_minima']:.1f}"

    rows = [
        (
            *(each["driver"], f"{each['by_hand_us']:.0f}"),
            *(added(each["run_adds_us"]), added(each["with_id_adds_us"])),
        )
        for each in results
    ]
    heads = "driver", "by hand, us", "run adds, us", "with the id, us"
    return (
        "A unit of work\n--------------\n\n"
        "``make bench ARGS=runs``. An empty transaction by ``run`` beside the same by hand:\n"
        "median over the rounds / difference of the shortest laps. With the id of the\n"
        "transaction: beside one that asks for it by hand.\n\n" + table(heads, rows)
    )


def _storm(result: dict[str, Any]) -> str | None:
    kind = result.get("storm")
    return None if kind is None else f"200 leases a second {kind}"


def failover(results: list[dict[str, Any]]) -> str:
    """Show the table of faults."""

    def cell(runs: list[dict[str, Any]], value: Callable[[dict[str, Any]], float | None]) -> str:
        values = [v for v in map(value, runs) if v is not None]
        return f"{median(values):,.0f} ({max(values):,.0f})" if values else "-"

    def milliseconds(name: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda run: None if run[name] is None else run[name] * 1000

    heads = "fault", "hasql", "added ms", "failed", "longest hang ms", "wrong server", "lost"
    rows = [
        (
            f"{FAULTS[each['fault']]} ({', '.join(filter(None, (each['driver'], _storm(each))))})",
            "ours" if each["hasql"] == "ours" else "0.10.0",
            cell(each["runs"], milliseconds("added")),
            cell(each["runs"], lambda run: run["failed"]),
            cell(each["runs"], milliseconds("longest_hang")),
            cell(each["runs"], lambda run: run["wrong"]),
            cell(each["runs"], lambda run: run["lost"]),
        )
        for each in results
    ]
    figure, axes = _figure(8, 3)
    faults = [f for f in FAULTS if any(r["fault"] == f and r["runs"][0]["added"] for r in results)]
    for name, color, offset in (("ours", _OURS, -0.2), ("peer", _PEER, 0.2)):
        for row, fault in enumerate(faults):
            for each in results:
                kind = each["fault"], each["hasql"], each["driver"], each.get("storm")
                if kind == (fault, name, "asyncpg", None):
                    added = [run["added"] * 1000 for run in each["runs"]]
                    axes.barh(row + offset, median(added), 0.38, color=color)
                    axes.plot(added, [row + offset] * len(added), "k.", markersize=3)
    axes.set_xscale("log")
    axes.set_yticks(range(len(faults)))
    axes.set_yticklabels([FAULTS[fault] for fault in faults])
    axes.invert_yaxis()
    axes.set_xlabel(
        "ms from the new master's own word to the first write (blue: ours, grey: 0.10.0)"
    )
    _save(figure, "failover")
    return (
        "Failover\n--------\n\n"
        "``make bench ARGS=failover``. Median (worst) of the runs.\n\n"
        ".. image:: failover.svg\n\n" + table(heads, rows)
    )


def scale(results: dict[str, Any]) -> str:
    """Show how the cost grows with hosts and waiters."""
    hosts = [
        (
            *(each["policy"], str(each["hosts"]), f"{each['us']:.1f}"),
            f"{each['median']:.2f} / {each['of_minima']:.2f}",
        )
        for each in results["hosts"]
    ]
    waiters = [
        (
            *(f"{each['waiters']:,}", f"{each['seconds'] * 1e3:.1f}"),
            f"{each['seconds'] / each['waiters'] * 1e6:.0f}",
        )
        for each in results["waiters"]
    ]
    return (
        "Scale\n-----\n\n``make bench ARGS=scale``, on a driver that costs next to nothing.\n\n"
        + table(("policy", "hosts", "us for an acquire and release", "times 8 hosts"), hosts)
        + "\n"
        + table(("waiting for a master", "all served after, ms", "us for each"), waiters)
    )


def herd(results: dict[str, Any]) -> str:
    """Show what a thousand clients ask of a host."""
    heads = "fault", "host", "steady, 1/s", "peak, 1/s", "worst second, cores", "settled after, s"
    rows = [
        (
            *(each["fault"], each["host"], f"{each['steady_rate']:,.0f}"),
            *(f"{each['peak_rate']:,.0f}", f"{each['worst_second_cores']:.2f}"),
            f"{each['settled_after']:.1f}",
        )
        for each in results["hosts"]
    ]
    figure, axes = _figure(8, 3)
    for each in results["hosts"]:
        if each["host"] == "b":
            counts, width = each["counts"], each["width"]
            asked = zip(*(counts[form] for form in ("full", "changes", "bare")), strict=True)
            rate = [sum(each) / width for each in asked]
            at = [(i - each["struck"]) * width for i in range(len(rate))]
            axes.step(at, rate, where="post", label=each["fault"], linewidth=1)
    axes.legend(frameon=False)
    axes.set_xlabel("seconds after the fault")
    axes.set_ylabel("probes per second")
    _save(figure, "herd")
    cost = results["cost"]
    return (
        f"A herd\n------\n\n``make bench ARGS=herd``: {results['clients']:,} clients, simulated; "
        f"the server's processor\ntime for a full probe was {cost['full'] * 1e6:.0f} us, for what "
        f"may have changed {cost['changes'] * 1e6:.0f} us, for a\nshort one "
        f"{cost['bare'] * 1e6:.0f} us. The plot shows the new master.\n\n"
        ".. image:: herd.svg\n\n" + table(heads, rows)
    )


def main() -> None:
    """Write the tables and plots for which there are results."""
    mpl.rcParams["svg.hashsalt"] = "hasql"
    _DOCS.mkdir(parents=True, exist_ok=True)
    parts = ["Benchmarks\n==========\n\nWritten by ``make bench ARGS=publish``.\n"]
    for show in (acquire, threads, load_control, runs, failover, scale, herd):
        path = _RESULTS / f"{show.__name__}.json"
        if path.exists():
            parts.append(show(json.loads(path.read_text())))
    (_DOCS / "results.rst").write_text("\n".join(parts))
    if (path := _RESULTS / "failover.json").exists():
        write(json.loads(path.read_text()))
    print(f"{_DOCS / 'results.rst'}: {len(parts) - 1} parts")


if __name__ == "__main__":
    main()
