"""The reading of a probe's answer: what it says, and what is none."""

from __future__ import annotations

import re

import pytest

from hasql.cluster.probe import ProbeForm, Reading, Role, UnreadableAnswerError, read_row

WAL_FILE = "0000000A00000001000000FF"
CORE = ("f", "-7", "1700000000000001", WAL_FILE, "5000", None, "12.5", "4711")
MASTER = (*CORE, "4500", "4000", "t", "1700000000000002", None)
REPLICA = ("t", "7", "1700000000000001", None, "5000", "0.25", "12.5", "4711", *[None] * 4, "9")


def test_a_master_tells_all_but_what_it_replayed() -> None:
    core = (Role.MASTER, -7, 1700000000000001, 10, 5000, None, 12.5, 4711)
    assert read_row(ProbeForm.CORE, CORE) == Reading(*core)
    assert read_row(ProbeForm.FULL, MASTER) == Reading(*core, 4500, 4000, True, 1700000000000002)


def test_a_master_that_has_started_as_one_was_no_standby() -> None:
    reading = read_row(ProbeForm.FULL, (*CORE, None, None, "f", None, None))
    assert (reading.recovered_to, reading.was_standby) == (None, False)


def test_a_replica_tells_no_timeline() -> None:
    core = (Role.REPLICA, 7, 1700000000000001, None, 5000, 0.25, 12.5, 4711)
    expected = Reading(*core, followed=9)
    assert read_row(ProbeForm.FULL, REPLICA) == expected


def test_null_is_what_is_not_told() -> None:
    row = ("f", None, "17", None, None, None, "12.5", "4711")
    assert read_row(ProbeForm.PLAIN, row) == Reading(
        Role.MASTER, started_at=17, uptime=12.5, backend_pid=4711
    )
    nothing = ("t", *[None] * 12)
    assert read_row(ProbeForm.FULL, nothing) == Reading(Role.REPLICA)


@pytest.mark.parametrize(("value", "role"), [("t", Role.REPLICA), ("f", Role.MASTER)])
def test_the_short_form_tells_the_role_alone(value: str, role: Role) -> None:
    assert read_row(ProbeForm.BARE, (value,)) == Reading(role)


@pytest.mark.parametrize(
    ("form", "row", "expected"),
    [
        (ProbeForm.BARE, (), "0 columns instead of 1"),
        (ProbeForm.BARE, ("f", "f"), "2 columns instead of 1"),
        (ProbeForm.FULL, (), "0 columns instead of 13"),
        (ProbeForm.FULL, ("f",), "1 columns instead of 13"),
        (ProbeForm.FULL, MASTER[:-1], "12 columns instead of 13"),
        (ProbeForm.CORE, CORE[:-1], "7 columns instead of 8"),
        (ProbeForm.PLAIN, (*CORE, None), "9 columns instead of 8"),
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
        (1, "system identifier", ["", "7.5", "x", "None"]),
        (2, "start time", ["2024-01-01", ""]),
        (3, "WAL file", ["", "0000000A", WAL_FILE.lower(), WAL_FILE + "0", "b'" + WAL_FILE]),
        (4, "WAL position", ["0/5000", ""]),
        (5, "age of the last replay", ["00:00:01", "NaN", ""]),
        (6, "uptime", ["Infinity", "1 day"]),
        (7, "process id", ["x", "1.0"]),
        (8, "flushed position", ["0/5000", ""]),
        (9, "end of the recovery", ["0/5000", ""]),
        (10, "past as a standby", ["true", "1", ""]),
        (11, "last replayed commit", ["2024-01-01", "1.5"]),
        (12, "followed timeline", ["A", ""]),
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
    columns = {ProbeForm.FULL: 13, ProbeForm.BARE: 1}
    row = [None] * columns.get(form, 8)
    with pytest.raises(UnreadableAnswerError, match="without a role"):
        read_row(form, row)
