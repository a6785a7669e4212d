"""Makes the failover table of README.rst from the benchmark's results.

The table is between two comments there; `publish.py` replaces what is between them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ("FAULTS", "failover_table", "with_table", "write")

FAULTS = {
    "clean": "clean stop + promote",
    "kill": "kill -9 + promote",
    "freeze": "freeze, promote, thaw",
    "beside": "promote beside a living master",
    "replica-killed": "replica killed",
    "replica-frozen": "replica frozen",
}
"""The text for readers, by the benchmark's name for a fault."""

_README = Path(__file__).parent.parent / "README.rst"
_BEGIN, _END = ".. failover table: begin\n\n", "\n.. failover table: end\n"
_DRIVER = "asyncpg"
_WIDTHS = (30, 6, 8, 7, 8, 9, 8, 7, 7)
"""The widths of the columns; each heading but the first spans two columns."""
_HEADINGS = (
    ("Fault", "Added, ms", "Failed", "Longest hang, s", "Writes to the"),
    ("", "", "operations", "", "wrong server"),
)
_PAIRS = tuple(_WIDTHS[i] + 2 + _WIDTHS[i + 1] for i in range(1, len(_WIDTHS), 2))


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _hang(seconds: float) -> str:
    return f"{seconds:.{2 if seconds < 1 else 1 if seconds < 20 else 0}f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(w) for cell, w in zip(cells, widths, strict=True)).rstrip() + "\n"


def failover_table(results: list[dict[str, Any]]) -> str:
    """Make the table of the faults with one driver: medians, ours beside the published hasql's."""
    runs = {
        (each["fault"], each["hasql"]): each["runs"]
        for each in results
        if each["driver"] == _DRIVER and not each.get("storm")
    }
    columns: tuple[tuple[str, float, Callable[[float], str]], ...] = (
        ("added", 1000, _whole),
        ("failed", 1, _whole),
        ("longest_hang", 1, _hang),
        ("wrong", 1, _whole),
    )

    def cell(fault: str, whose: str, name: str, times: float, show: Callable[[float], str]) -> str:
        values = [run[name] for run in runs.get((fault, whose), ()) if run[name] is not None]
        return show(median(values) * times) if values else ""

    rule = _line(["=" * width for width in _WIDTHS], _WIDTHS)
    under = _line(["-" * width for width in (_WIDTHS[0], *_PAIRS)], (_WIDTHS[0], *_PAIRS))
    lines = [rule, *(_line(each, (_WIDTHS[0], *_PAIRS)) for each in _HEADINGS), under]
    lines += [_line(["\\", *("here", "0.10.0") * 4], _WIDTHS), rule]
    for fault, words in FAULTS.items():
        cells = [cell(fault, whose, *each) for each in columns for whose in ("ours", "peer")]
        lines.append(_line([words, *cells], _WIDTHS))
    return "".join([*lines, rule])


def with_table(readme: str, table: str) -> str:
    """Return the README with this table in place of the present one."""
    before, begin, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{_README.name} has lost {_BEGIN.strip()!r} or {_END.strip()!r}")
    return before + begin + table + end + after


def write(results: list[dict[str, Any]]) -> None:
    """Write the table into README.rst; docs/costs.rst includes it from there."""
    text = _README.read_text(encoding="utf-8")
    _README.write_text(with_table(text, failover_table(results)), encoding="utf-8")
