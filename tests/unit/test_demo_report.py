"""What the demo's report derives from given evidence."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("rich")

from rich.console import Console

from hasql.cli.report import (
    Acknowledged,
    ErrorCount,
    FailedOperation,
    MovedName,
    NameMove,
    Outage,
    Report,
    Rows,
    RunRecord,
)
from hasql.cli.summary import summary

BEFORE, AFTER = 10.0, 11.0
"""When the fault happens, and when the new master accepts writes."""

WRITES = (
    Acknowledged(1, 1, 9.0),
    Acknowledged(2, 1, 9.75),
    Acknowledged(1, 2, 11.25),
    Acknowledged(2, 2, 12.0),
)
CRASH = RunRecord(
    fault="crash",
    postgresql="18.4",
    lossless=False,
    began=8.0,
    ended=14.0,
    struck=BEFORE,
    writable=AFTER,
    whole=13.0,
    acknowledged=WRITES,
    reads=((9.0, 9.5), (10.5, 10.75), (12.5, 13.5)),
    failed=(),
    hung=0,
    present={(row.client, row.sequence) for row in WRITES},
)


def without(*missing: tuple[int, int]) -> RunRecord:
    return replace(CRASH, present=set(CRASH.present) - set(missing))


def test_the_time_without_writes_is_divided_between_the_cluster_and_hasql() -> None:
    assert Report.of(CRASH).outage == Outage(
        without_writes=1.5, without_master=1.0, added_by_hasql=0.25
    )


def test_an_answer_of_the_dying_master_that_came_late_belongs_to_the_time_before() -> None:
    late = Acknowledged(3, 1, 10.25)
    report = Report.of(replace(CRASH, acknowledged=(*WRITES, late)))
    assert report.outage is not None
    assert report.outage.without_writes == 1.0


def test_pauses_are_those_after_the_fault() -> None:
    report = Report.of(CRASH)
    assert report.longest_pause_in_reads == 2.75
    assert report.longest_pause_in_writes == 2.0  # from the last write to the end
    assert report.slowest_read == 1.0


def test_a_fault_that_took_no_master_has_no_outage() -> None:
    report = Report.of(replace(CRASH, writable=None, lossless=True))
    assert report.outage is None
    assert report.ok


OLD, NEW = "127.0.0.1", "127.0.0.2"
BY_ADDRESS = [
    Acknowledged(row.client, row.sequence, row.at, OLD if row.at < 11.5 else NEW) for row in WRITES
]
MOVE = replace(
    CRASH,
    fault="dns",
    writable=None,
    lossless=True,
    acknowledged=BY_ADDRESS,
    move=NameMove("db", OLD, NEW, 1, BEFORE),
)


def test_a_name_that_moved_is_told_by_the_writes_of_each_address() -> None:
    report = Report.of(MOVE)
    assert report.moved == MovedName("db", OLD, NEW, 1, old_for=1.25, new_after=2.0)
    assert report.ok


def test_the_writes_before_a_name_moved_say_nothing_of_it() -> None:
    report = Report.of(replace(MOVE, acknowledged=[BY_ADDRESS[0], BY_ADDRESS[3]]))
    assert report.moved == MovedName("db", OLD, NEW, 1, old_for=0.0, new_after=2.0)


@pytest.mark.parametrize(
    ("late", "words"),
    [
        (Acknowledged(3, 1, 12.5, OLD), "db had left was used for 2.5 s more"),
        (None, "no write was made through the new address of db"),
    ],
)
def test_an_address_that_is_not_left_is_a_problem(late: Acknowledged | None, words: str) -> None:
    acknowledged = [*BY_ADDRESS, late] if late is not None else BY_ADDRESS[:3]
    present = {(row.client, row.sequence) for row in acknowledged}
    report = Report.of(replace(MOVE, acknowledged=acknowledged, present=present))
    assert report.problems == (f"{'the address that ' if late else ''}{words}",)


def test_a_fault_that_moves_no_name_says_nothing_of_one() -> None:
    assert Report.of(CRASH).moved is None


def test_with_every_row_present_all_is_well() -> None:
    report = Report.of(CRASH)
    assert report.rows == Rows(acknowledged=4, present=4, not_shipped=0, lost=0)
    assert report.ok
    assert report.whole_again_after == 3.0


def test_what_the_old_master_acknowledged_and_did_not_ship_is_no_fault_of_hasql() -> None:
    report = Report.of(without((2, 1)))
    assert report.rows == Rows(acknowledged=4, present=3, not_shipped=1, lost=0)
    assert report.ok


def test_a_missing_row_acknowledged_after_the_promotion_is_lost() -> None:
    report = Report.of(without((2, 1), (1, 2)))
    assert report.rows == Rows(acknowledged=4, present=2, not_shipped=1, lost=1)
    assert report.problems == ("1 acknowledged rows are lost",)
    assert not report.ok


@pytest.mark.parametrize("writable", [AFTER, None])
def test_without_a_loss_of_the_master_no_missing_row_is_excused(writable: float | None) -> None:
    report = Report.of(replace(without((1, 1)), lossless=True, writable=writable))
    assert (report.rows.not_shipped, report.rows.lost) == (0, 1)
    assert not report.ok


def test_rows_that_were_written_but_not_acknowledged_count_for_nothing() -> None:
    report = Report.of(replace(CRASH, present={*CRASH.present, (7, 7)}))
    assert report.rows.present == report.rows.acknowledged == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"acknowledged": WRITES[:2]}, "writing did not resume"),
        ({"reads": ((9.0, 9.5),)}, "reading did not resume"),
        ({"whole": None}, "not whole again"),
        ({"hung": 2}, "2 operations hung"),
        ({"acknowledged": ()}, "no write was acknowledged"),
    ],
)
def test_what_did_not_come_back_is_a_problem(change: dict[str, Any], words: str) -> None:
    report = Report.of(replace(CRASH, **change))
    assert words in "; ".join(report.problems)
    assert not report.ok


def test_failures_are_counted_by_error_and_by_task() -> None:
    failed = (
        FailedOperation("writer 1", "Gone: away", 9.5, 10.5),
        FailedOperation("writer 2", "Gone: away", 9.5, 10.5),
        FailedOperation("writer 2", "Gone: again", 10.5, 10.75),
        FailedOperation("reader 1", "Gone: away", 9.5, 10.5),
    )
    report = Report.of(replace(CRASH, failed=failed))
    assert report.failed == 4
    assert report.most_failures_of_one_task == 2
    assert report.errors[0] == ErrorCount("write", "Gone: away", 2)
    assert ErrorCount("read", "Gone: away", 1) in report.errors
    assert (report.failures[0].began, report.failures[0].ended) == (-0.5, 0.5)


def test_the_report_as_json_says_whether_all_is_well() -> None:
    document = json.loads(json.dumps(Report.of(without((1, 2))).as_json()))
    assert document["ok"] is False
    assert document["rows"]["lost"] == 1
    assert document["outage"]["added_by_hasql"] == 0.25


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("evidence", [CRASH, replace(CRASH, writable=None), MOVE])
def test_the_summary_fits_any_terminal(width: int, evidence: RunRecord) -> None:
    console = Console(file=io.StringIO(), width=width)
    failed = (FailedOperation("writer 1", "Gone: " + "far " * 40, 9.5, 10.5),)
    present = set(CRASH.present) - {(2, 1)}
    console.print(summary(Report.of(replace(evidence, failed=failed, present=present))))
    file = console.file
    assert isinstance(file, io.StringIO)
    assert max(map(len, file.getvalue().splitlines())) <= width
