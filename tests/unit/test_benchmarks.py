"""The arithmetic of the benchmarks, where a mistake would silently give wrong figures."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.aftermath import Aftermath, Failed, Notes, Read, Scene, Written
from benchmarks.front_page import FAULTS, failover_table, with_table
from benchmarks.laps import Lap, added, share_of_added, times_bare
from benchmarks.shares import Cost, Counts, Share

SCENE = Scene(
    struck=10.0, ended=15.0, master="new", writable=10.5, present={(1, 1), (1, 3)}, lossless=False
)
NOTES = Notes(
    written=[
        Written(1, 1, "old", 9.0, 9.1),
        Written(1, 2, "old", 9.9, 10.1),
        Written(1, 3, "new", 10.1, 10.75),
    ],
    read=[Read(1, "new", 9.0, 9.9)],
    failed=[],
    hung=[],
    closed=0.1,
)


def aftermath(scene: Scene = SCENE, **notes: object) -> Aftermath:
    return Aftermath.of(scene, replace(NOTES, **notes))  # type: ignore[arg-type]


def test_what_a_client_adds_runs_from_the_new_masters_word_to_its_first_write() -> None:
    assert aftermath().added == pytest.approx(0.25)
    assert aftermath().without_master == pytest.approx(0.5)


def test_no_write_after_a_failover_is_an_endless_addition() -> None:
    assert aftermath(written=NOTES.written[:2]).added == float("inf")
    assert aftermath(replace(SCENE, writable=None)).added is None


def test_a_hang_counts_if_it_ended_after_the_fault() -> None:
    assert aftermath().longest_hang == pytest.approx(0.65)
    early = Failed("reader 1", "OSError", 1.0, 9.9)
    assert aftermath(failed=[early]).longest_hang == pytest.approx(0.65)
    late = Failed("reader 1", "OSError", 9.0, 10.2)
    assert aftermath(failed=[late]).longest_hang == pytest.approx(1.2)
    assert aftermath(hung=[("reader 1", 11.0)]).longest_hang == pytest.approx(4.0)


def test_failures_are_counted_by_task() -> None:
    one, two = (Failed(f"writer {i}", "OSError", 10.0, 10.1) for i in range(2))
    seen = aftermath(failed=[one, two, one])
    assert (seen.failed, seen.most_failures_of_one_task) == (3, 2)


def test_a_missing_row_is_excused_only_if_the_old_master_had_not_been_replaced() -> None:
    assert (aftermath().lost, aftermath().not_shipped, aftermath().wrong) == (0, 1, 0)
    assert aftermath(replace(SCENE, lossless=True)).lost == 1
    late = Written(2, 1, "old", 10.5, 10.6)
    seen = aftermath(written=[*NOTES.written, late])
    assert (seen.lost, seen.not_shipped, seen.wrong) == (1, 1, 1)
    assert seen.last_wrong == pytest.approx(0.1)


def test_broken_leases_are_counted_in_the_second_before_the_fault_and_after_it() -> None:
    seen = aftermath(broken=[8.9, 9.1, 9.5, 10.0, 10.1, 11.0, 12.0, 14.9, 15.0, 15.1])
    assert seen.broken_before == 3
    assert seen.broken_after == pytest.approx(5 / 5.0)
    assert (aftermath().broken_before, aftermath().broken_after) == (0, 0)


def test_ratios_are_of_one_round_each_and_of_the_shortest_laps() -> None:
    laps = [Lap(1.0, 1.5), Lap(2.0, 4.0), Lap(4.0, 12.0)]
    ratio = times_bare(laps)
    assert (ratio.median, ratio.of_minima) == (2.0, 1.5)
    assert added(laps) == 2.0
    peers = [Lap(1.0, 3.0), Lap(2.0, 6.0), Lap(5.0, 9.0)]
    share = share_of_added(laps, peers)
    assert (share.median, share.of_minima) == (0.5, 0.25)


def test_laps_of_different_rounds_are_not_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        share_of_added([Lap(1.0, 2.0)] * 2, [Lap(1.0, 3.0)])


COUNTS = Counts(
    full=[10, 10, 10, 0, 0, 10, 10, 10],
    changes=[0, 0, 0, 10, 10, 0, 0, 0],
    bare=[0, 0, 90, 40, 0, 0, 0, 0],
    logins=[0, 0, 2, 0, 0, 0, 0, 0],
    struck=2,
    width=0.5,
)


def test_a_host_spends_what_it_is_asked_times_the_cost() -> None:
    share = Share.of(COUNTS, Cost(full=0.001, changes=0.0005, bare=0.002, logins=0.01))
    assert share.steady_rate == 20
    assert share.steady_cores == pytest.approx(0.02)
    assert (share.peak_rate, share.worst_second_rate) == (200, 150)
    assert share.peak_cores == pytest.approx((0.01 + 0.18 + 0.02) / 0.5)
    assert share.worst_second_cores == pytest.approx(0.01 + 0.18 + 0.02 + 0.005 + 0.08)


def test_a_burst_is_over_when_every_second_after_it_is_as_before() -> None:
    cost = Cost(0.001, 0.001, 0.001, 0.001)
    # The second that begins in the last half second of the burst still contains a part of it.
    assert Share.of(COUNTS, cost).settled_after == pytest.approx(1.5)
    assert Share.of(replace(COUNTS, bare=[0] * 8), cost).settled_after == 0


ROOT = Path(__file__).parents[2]


def published() -> list[dict[str, Any]]:
    """Return the last published results of the benchmark, each median as a single run."""
    text = (ROOT / "docs" / "benchmarks" / "results.rst").read_text("utf-8")
    section = re.split(r"^(\w.*)\n-+$", text, flags=re.MULTILINE)
    rows = section[section.index("Failover") + 1].split("   * - ")[2:]
    names = {words: fault for fault, words in FAULTS.items()}
    results = []
    for row in rows:
        what, whose, added, failed, hang, wrong, _ = (
            cell.strip() for cell in row.replace("\n     - ", "\0").split("\0")
        )
        found = re.fullmatch(r"(.+) \((\w+)(?:, (.+))?\)", what)
        assert found
        fault, driver, storm = found.groups()
        values = [
            None if cell == "-" else float(cell.partition(" ")[0].replace(",", ""))
            for cell in (added, failed, hang, wrong)
        ]
        run = {
            "added": None if values[0] is None else values[0] / 1000,
            "failed": values[1],
            "longest_hang": None if values[2] is None else values[2] / 1000,
            "wrong": values[3],
        }
        hasql = "ours" if whose == "ours" else "peer"
        key = {"driver": driver, "fault": names[fault], "hasql": hasql, "storm": storm}
        results.append({**key, "runs": [run]})
    return results


def test_the_table_in_the_readme_is_that_of_the_published_results() -> None:
    readme = (ROOT / "README.rst").read_text("utf-8")
    assert with_table(readme, failover_table(published())) == readme


def test_a_readme_without_its_markers_is_not_written() -> None:
    with pytest.raises(ValueError, match="failover table: begin"):
        with_table("no table here", "")
