"""Reading a probe's answer: what it says, and what is not an answer."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hasql.cluster.probe import ProbeForm, Reading, Role, UnreadableAnswerError, read_row

WAL_FILE = "0000000A00000001000000FF"
STARTED = 1700000000000001
IDENTITY = ("-7", str(STARTED), "4711")
PLAIN = ("f", "1700000012.500001", *IDENTITY)
CORE = (*PLAIN, WAL_FILE, "A/1388", None)
HISTORY = ("A/1194", "A/FA0", "t", None)
MASTER = (*CORE[:-1], "1700000000.000002", *HISTORY)
REPLICA = ("t", *PLAIN[1:], None, "A/1388", "1700000012.250001", None, "A/1388", "t", "9")
POSITION = 10 * 2**32 + 5000


def test_a_master_tells_all_but_what_it_replayed() -> None:
    core = (Role.MASTER, -7, STARTED, 10, POSITION, None, 12.5, 4711)
    assert read_row(ProbeForm.CORE, CORE) == Reading(*core)
    history = POSITION - 500, POSITION - 1000, True, STARTED + 1
    assert read_row(ProbeForm.FULL, MASTER) == Reading(*core, *history)


def test_a_master_that_has_started_as_one_was_no_standby() -> None:
    reading = read_row(ProbeForm.FULL, (*CORE, None, None, "f", None))
    assert (reading.recovered_to, reading.was_standby) == (None, False)


def test_a_replica_tells_no_timeline() -> None:
    core = (Role.REPLICA, -7, STARTED, None, POSITION, 0.25, 12.5, 4711)
    assert read_row(ProbeForm.FULL, REPLICA) == Reading(*core, followed=9)


def test_a_replica_that_is_promoted_while_it_answers_tells_nothing_of_a_master() -> None:
    row = (*REPLICA[:5], WAL_FILE, *REPLICA[6:8], "A/1388", *REPLICA[9:])
    assert read_row(ProbeForm.FULL, row) == read_row(ProbeForm.FULL, REPLICA)


def test_what_may_change_is_read_beside_what_is_known() -> None:
    known = read_row(ProbeForm.FULL, REPLICA)
    changes = ("f", "1700000099.500001", *MASTER[5:])
    promoted = read_row(ProbeForm.CHANGES, changes, known)
    assert promoted == replace(read_row(ProbeForm.FULL, MASTER), uptime=99.5)


def test_null_is_what_is_not_told() -> None:
    row = ("f", "1700000012.5", None, "1700000000000000", "4711")
    assert read_row(ProbeForm.PLAIN, row) == Reading(
        Role.MASTER, started_at=STARTED - 1, uptime=12.5, backend_pid=4711
    )
    nothing = ("t", *[None] * 11)
    assert read_row(ProbeForm.FULL, nothing) == Reading(Role.REPLICA)


@pytest.mark.parametrize("microseconds", [1, 999_999, STARTED, 4_102_444_799_999_999])
def test_a_time_is_read_to_the_microsecond(microseconds: int) -> None:
    whole, rest = divmod(microseconds, 1_000_000)
    row = (*CORE[:-1], f"{whole}.{rest:06}", *HISTORY)
    assert read_row(ProbeForm.FULL, row).last_replayed == microseconds


@pytest.mark.parametrize(("value", "role"), [("t", Role.REPLICA), ("f", Role.MASTER)])
def test_the_short_form_tells_the_role_alone(value: str, role: Role) -> None:
    assert read_row(ProbeForm.BARE, (value,)) == Reading(role)


@pytest.mark.parametrize(
    ("form", "row", "expected"),
    [
        (ProbeForm.BARE, (), "0 columns instead of 1"),
        (ProbeForm.BARE, ("f", "f"), "2 columns instead of 1"),
        (ProbeForm.FULL, (), "0 columns instead of 12"),
        (ProbeForm.FULL, ("f",), "1 columns instead of 12"),
        (ProbeForm.FULL, MASTER[:-1], "11 columns instead of 12"),
        (ProbeForm.CORE, CORE[:-1], "7 columns instead of 8"),
        (ProbeForm.PLAIN, CORE, "8 columns instead of 5"),
        (ProbeForm.CHANGES, MASTER, "12 columns instead of 9"),
    ],
)
def test_another_number_of_columns_is_no_answer(
    form: ProbeForm, row: tuple[str | None, ...], expected: str
) -> None:
    with pytest.raises(UnreadableAnswerError, match=expected):
        read_row(form, row)


@pytest.mark.parametrize(
    ("column", "what", "values"),
    [
        (0, "role", ["", "true", "T", "1", "\N{DIGIT ZERO}", "\\x66"]),
        (1, "clock", ["Infinity", "2024-01-01"]),
        (2, "system identifier", ["", "7.5", "x", "None"]),
        (3, "start time", ["2024-01-01", ""]),
        (4, "process id", ["x", "1.0"]),
        (5, "WAL file", ["", "0000000A", WAL_FILE.lower(), WAL_FILE + "0", "b'" + WAL_FILE]),
        (6, "WAL position", ["5000", "0/", "a/1388", "0/123456789", ""]),
        (7, "time of the last replayed commit", ["2024-01-01", "NaN", ""]),
        (8, "flushed position", ["5000", ""]),
        (9, "end of the recovery", ["5000", ""]),
        (10, "history as a standby", ["true", "1", ""]),
        (11, "followed timeline", ["A", ""]),
    ],
)
def test_a_value_that_cannot_be_read_is_no_answer(
    column: int, what: str, values: list[str]
) -> None:
    for value in values:
        row = [*MASTER[:column], value, *MASTER[column + 1 :]]
        expected = f"answered with {re.escape(repr(value))} as the {what}, which cannot be read"
        with pytest.raises(UnreadableAnswerError, match=expected):
            read_row(ProbeForm.FULL, row)


def test_each_form_asks_for_less_than_the_one_before() -> None:
    forms = [ProbeForm.FULL, ProbeForm.CORE, ProbeForm.PLAIN, ProbeForm.BARE]
    assert [form.smaller for form in forms] == [*forms[1:], None]


@pytest.mark.parametrize("form", ProbeForm)
def test_an_answer_without_a_role_is_none(form: ProbeForm) -> None:
    columns = {"FULL": 12, "CORE": 8, "PLAIN": 5, "BARE": 1, "CHANGES": 9}
    row = [None] * columns[form.name]
    with pytest.raises(UnreadableAnswerError, match="without a role"):
        read_row(form, row)
