"""The truth table of commit outcomes: which answer of which master means which outcome."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hasql.cluster.host import HostSpec, parse_host
from hasql.cluster.lineage import (
    Switch,
    keep_newest_followed,
    switch_of,
    switches_from,
    with_switch,
)
from hasql.cluster.probe import Reading, Role, UnreadableAnswerError
from hasql.cluster.topology import Answered, Topology
from hasql.errors import HasqlError
from hasql.resilience import CommitMark, CommitUnknownError, Outcome
from hasql.resilience.commit_rule import (
    LastSign,
    StatusAnswer,
    last_sign,
    outcome_of,
    question,
    read_answer,
)

A, B, C = (parse_host(name) for name in "abc")
COMMITTED, ABORTED, UNKNOWN, WAIT = Outcome.COMMITTED, Outcome.ABORTED, Outcome.UNKNOWN, None
SYSTEM = 7
#: When the mark was read, by its server's clock, in microseconds.
AT = 1_000_000_000

#: Transaction 100 on timeline 3 of server A, before COMMIT at position 5000.
MARK = CommitMark(100, A, SYSTEM, 3, 5000, 4000, 11, None, AT)

SAME = Reading(Role.MASTER, SYSTEM, 11, 3)
#: The same postmaster after a backend has crashed and all backends have restarted.
RECOVERED = replace(SAME, recovered_to=6000, was_standby=False)
#: Another postmaster: the server was stopped and started, or it crashed.
RESTARTED = replace(SAME, started_at=12, was_standby=False)
CRASHED = replace(RESTARTED, recovered_to=6000)
#: Promoted from the mark's timeline at a position after the mark, with no time in between.
PROMOTED = Reading(
    Role.MASTER, SYSTEM, 21, 4, recovered_to=6000, was_standby=True, last_replayed=AT
)
BEGUN = Switch(B, 4, 6000, AT, ancestor=3)


def told(  # noqa: PLR0913  # given by name, and few at a time
    reading: Reading,
    *switches: Switch,
    status: str | None = "committed",
    mark: CommitMark = MARK,
    several: bool = False,
    alive: int = AT,
    flushed: int = 4000,
    host: HostSpec | None = None,
) -> Outcome | None:
    answer = StatusAnswer(host or (A if reading.timeline == 3 else B), status, reading, several)
    return outcome_of(mark, answer, switches, LastSign(alive, flushed))


# The same server


@pytest.mark.parametrize(
    ("status", "expected"),
    [("committed", COMMITTED), ("aborted", ABORTED), ("in progress", WAIT), (None, UNKNOWN)],
)
def test_the_same_server_knows(status: str | None, expected: Outcome | None) -> None:
    assert told(SAME, status=status) is expected


@pytest.mark.parametrize("reading", [RECOVERED, RESTARTED, CRASHED, PROMOTED])
@pytest.mark.parametrize(
    ("status", "expected"), [("aborted", ABORTED), ("in progress", ABORTED), (None, UNKNOWN)]
)
def test_a_commit_is_not_there_where_its_id_is_not_committed(
    reading: Reading, status: str | None, expected: Outcome
) -> None:
    assert told(reading, BEGUN, status=status) is expected


@pytest.mark.parametrize("reading", [RECOVERED, RESTARTED, CRASHED])
def test_committed_proves_nothing_after_a_restart(reading: Reading) -> None:
    # The server may have restarted twice, and may have lost the mark's WAL the first time.
    assert told(reading) is UNKNOWN


@pytest.mark.parametrize("reading", [RECOVERED, RESTARTED, CRASHED])
def test_what_had_been_flushed_is_there_after_any_restart(reading: Reading) -> None:
    assert told(reading, flushed=4999) is UNKNOWN
    assert told(reading, flushed=5000) is COMMITTED
    # But not if this may be another server that has a timeline of the same number.
    assert told(reading, flushed=5000, host=B) is UNKNOWN
    assert told(reading, flushed=5000, several=True) is UNKNOWN
    assert told(reading, Switch(B, 3, 1000, None), flushed=5000) is UNKNOWN
    begun = Switch(A, 3, 1000, None)
    assert told(reading, begun, flushed=5000) is COMMITTED
    assert told(reading, begun, replace(begun, position=2000), flushed=5000) is UNKNOWN


@pytest.mark.parametrize("reading", [RECOVERED, CRASHED])
@pytest.mark.parametrize(("to", "expected"), [(4999, ABORTED), (5000, ABORTED), (5001, UNKNOWN)])
def test_what_a_crash_has_lost_is_lost(reading: Reading, to: int, expected: Outcome) -> None:
    assert told(replace(reading, recovered_to=to)) is expected


def test_another_server_of_the_same_timeline_has_never_had_it() -> None:
    twin = replace(PROMOTED, timeline=3, recovered_to=9000)
    assert told(twin) is ABORTED


# Servers that cannot know


@pytest.mark.parametrize(
    "reading",
    [
        pytest.param(replace(SAME, role=Role.REPLICA, timeline=None), id="a replica"),
        pytest.param(replace(PROMOTED, timeline=2), id="a master replaced long ago"),
        pytest.param(replace(PROMOTED, system_id=8), id="another cluster"),
        pytest.param(replace(PROMOTED, timeline=None), id="one that tells nothing"),
        pytest.param(replace(PROMOTED, system_id=None), id="one that hides its cluster"),
    ],
)
@pytest.mark.parametrize("status", ["committed", "aborted"])
def test_who_cannot_know_is_not_believed(reading: Reading, status: str) -> None:
    assert told(reading, BEGUN, status=status) is WAIT


# One promotion


@pytest.mark.parametrize(("at", "expected"), [(4999, ABORTED), (5000, ABORTED), (5001, COMMITTED)])
def test_a_commit_counts_if_the_timeline_was_left_behind_its_mark(
    at: int, expected: Outcome
) -> None:
    assert told(replace(PROMOTED, recovered_to=at), replace(BEGUN, position=at)) is expected


def test_what_the_new_master_says_itself_is_enough_on_the_first_timeline() -> None:
    mark, reading = replace(MARK, timeline=1), replace(PROMOTED, timeline=2)
    assert told(reading, mark=mark) is COMMITTED
    # A later timeline may have begun elsewhere, without the WAL of the mark's timeline.
    assert told(PROMOTED) is UNKNOWN
    assert told(PROMOTED, replace(BEGUN, ancestor=2)) is UNKNOWN


def test_a_timeline_of_the_marks_number_that_another_has_begun_makes_it_unknown() -> None:
    assert told(PROMOTED, BEGUN, Switch(A, 3, 1000, AT, 2)) is COMMITTED
    assert told(PROMOTED, BEGUN, Switch(C, 3, 1000, AT, 2)) is UNKNOWN


def test_what_was_replayed_long_after_the_mark_may_be_of_a_server_that_has_lost_it() -> None:
    late = AT + 10_001
    reading, switch = replace(PROMOTED, last_replayed=late), replace(BEGUN, last_ended=late)
    assert told(reading, switch) is UNKNOWN
    assert told(reading, switch, alive=AT + 1) is COMMITTED
    assert told(reading, switch, flushed=4999) is UNKNOWN
    assert told(reading, switch, flushed=5000) is COMMITTED


def test_what_was_replayed_before_the_mark_does_not_tell_that_its_server_came_so_far() -> None:
    # The mark's server may have crashed and restarted, and may then have written WAL beyond the
    # mark in which no transaction ends.
    early = AT - 1
    reading, switch = replace(PROMOTED, last_replayed=early), replace(BEGUN, last_ended=early)
    assert told(reading, switch) is UNKNOWN
    assert told(reading, switch, flushed=5000) is COMMITTED


def test_where_nothing_was_replayed_since_the_start_the_flushed_position_tells() -> None:
    reading, switch = replace(PROMOTED, last_replayed=None), replace(BEGUN, last_ended=None)
    assert told(reading, switch) is UNKNOWN
    assert told(reading, switch, flushed=5000) is COMMITTED


def test_a_new_master_that_has_restarted_counts_if_its_promotion_was_seen() -> None:
    anew = replace(PROMOTED, started_at=22, was_standby=False)
    for reading in (replace(anew, recovered_to=None), replace(anew, recovered_to=8000)):
        assert told(reading, BEGUN) is COMMITTED
        assert told(reading) is UNKNOWN
        assert told(reading, replace(BEGUN, host=C)) is UNKNOWN
        assert told(reading, BEGUN, several=True) is UNKNOWN
        assert told(reading, replace(BEGUN, position=5000)) is ABORTED
        # A host that has begun this timeline twice may not be the server that was seen before.
        assert told(reading, BEGUN, replace(BEGUN, position=7000)) is UNKNOWN
    # In any case the server has recovered at least to where its timeline began.
    assert told(replace(anew, recovered_to=5000)) is ABORTED


# Several promotions


def twice(*switches: Switch, last: Switch) -> Outcome | None:
    reading = replace(
        PROMOTED,
        timeline=last.timeline,
        recovered_to=last.position,
        last_replayed=last.last_ended,
    )
    return told(reading, *switches, last)


@pytest.mark.parametrize(
    ("first", "ancestor", "expected"),
    [
        pytest.param(6000, 4, COMMITTED, id="over the one between, which has it"),
        pytest.param(5000, 4, ABORTED, id="over the one between, which has lost it"),
        pytest.param(6000, 3, UNKNOWN, id="past the one between, maybe: too late to tell"),
        pytest.param(5000, 3, UNKNOWN, id="one way it is lost, the other way not"),
        pytest.param(6000, 2, UNKNOWN, id="maybe past the mark's"),
    ],
)
def test_each_promotion_in_between_counts(first: int, ancestor: int, expected: Outcome) -> None:
    last = Switch(B, 5, 7000, AT + 1_000_000, ancestor)
    assert twice(Switch(C, 4, first, AT, 3), last=last) is expected


def test_a_promotion_that_nobody_has_seen_leaves_it_open() -> None:
    assert twice(last=Switch(B, 5, 7000, AT, 4)) is UNKNOWN
    assert twice(last=Switch(B, 5, 7000, AT, 3)) is UNKNOWN


def test_it_is_lost_in_any_case_if_the_last_timeline_began_before_it() -> None:
    assert twice(last=Switch(B, 5, 5000, AT, 1)) is ABORTED


def test_two_servers_that_began_the_same_timeline_must_agree() -> None:
    one, other = Switch(C, 4, 6000, AT, 3), Switch(A, 4, 5000, AT, 3)
    last = Switch(B, 5, 7000, AT, 4)
    assert twice(one, other, last=last) is UNKNOWN
    assert twice(one, replace(other, position=6001), last=last) is COMMITTED


# How long the mark's server is known to have been up


def test_a_probe_tells_how_far_the_server_has_come() -> None:
    mark = replace(MARK, started_at=AT - 5_000_000, at=AT)
    reading = Reading(Role.MASTER, SYSTEM, AT - 5_000_000, 3, uptime=6.5, flushed=4500)
    assert last_sign(mark, reading) == LastSign(AT + 1_500_000, 4500)
    assert last_sign(mark, replace(reading, uptime=1.0, flushed=None)) == LastSign(AT, 4000)
    for other in (None, replace(reading, recovered_to=1), replace(reading, started_at=AT)):
        assert last_sign(mark, other) == LastSign(AT, 4000)
    assert LastSign(1, 2).and_then(LastSign(2, 1)) == LastSign(2, 2)


# What is known of switches


def test_a_switch_is_told_by_who_was_promoted_since_its_start() -> None:
    assert switch_of(B, PROMOTED, None) == replace(BEGUN, ancestor=1)
    standby = Reading(Role.REPLICA, SYSTEM, 21, followed=3)
    assert switch_of(B, PROMOTED, standby) == BEGUN
    # A reading of another or restarted server, or of the new timeline itself, says nothing.
    for other in (replace(standby, started_at=20), replace(standby, followed=4)):
        assert switch_of(B, PROMOTED, other) == replace(BEGUN, ancestor=1)
    for none in (replace(PROMOTED, was_standby=False), replace(PROMOTED, timeline=None), standby):
        assert switch_of(B, none, None) is None


def test_what_is_known_of_a_switch_stays_known() -> None:
    standby = Reading(Role.REPLICA, SYSTEM, 21, followed=3)
    first = with_switch({}, B, PROMOTED, standby)
    assert first == {SYSTEM: (BEGUN,)}
    assert with_switch(first, B, PROMOTED, None) is first
    assert with_switch(first, B, replace(PROMOTED, was_standby=False), PROMOTED) is first
    again = with_switch(first, B, replace(PROMOTED, recovered_to=7000), None)
    assert {*again[SYSTEM]} == {BEGUN, Switch(B, 4, 7000, AT, 1)}
    assert len(with_switch(first, C, PROMOTED, None)[SYSTEM]) == 2


def test_a_replica_that_has_restarted_may_follow_another_timeline() -> None:
    before = Reading(Role.REPLICA, SYSTEM, 21, followed=3)
    for less in (None, 2):
        reading = replace(before, followed=less)
        assert keep_newest_followed(reading, before) == before
        anew = replace(reading, started_at=22)
        for other in (before, replace(before, followed=None), None):
            assert keep_newest_followed(anew, other) == anew
    more = replace(before, followed=4)
    assert keep_newest_followed(more, before) == more
    assert keep_newest_followed(PROMOTED, before) == PROMOTED


def test_the_newest_switches_are_kept_and_no_more() -> None:
    known = with_switch({}, B, PROMOTED, None)
    for timeline in range(5, 100):
        known = with_switch(known, B, replace(PROMOTED, timeline=timeline), None)
    assert [each.timeline for each in known[SYSTEM]] == list(range(99, 83, -1))


def test_the_topology_keeps_the_switch_of_the_first_answer_after_a_promotion() -> None:
    topology, now = Topology.of((A, B), 0.0), 0.0

    def answer(reading: Reading) -> None:
        nonlocal topology, now
        now += 1.0
        topology = topology.observe(Answered(B, now, now, reading)).topology

    answer(Reading(Role.REPLICA, SYSTEM, 21, followed=3))
    answer(Reading(Role.REPLICA, SYSTEM, 21, followed=2))  # it no longer receives WAL
    answer(Reading(Role.REPLICA, SYSTEM, 21))
    assert not topology.seen.switches
    answer(PROMOTED)
    assert topology.seen.switches == {SYSTEM: (BEGUN,)}
    answer(replace(PROMOTED, started_at=22, was_standby=False, recovered_to=8000))
    assert topology.seen.switches == {SYSTEM: (BEGUN,)}
    assert not topology.without_seen_timelines(now).topology.seen.switches


def test_a_way_through_timelines_is_found_by_their_ancestors() -> None:
    two, three, five = (Switch(B, n, n * 1000, AT, a) for n, a in ((2, 1), (3, 2), (5, 3)))
    known = (two, three, five)
    assert switches_from(3, five, (two, three)) is None  # timeline 4 began, but where was not seen
    assert switches_from(1, five, known) == (two,)
    assert switches_from(2, five, known) == (three,)
    assert switches_from(4, five, known) is None
    assert switches_from(1, three, ()) is None


# What is asked, and what is read


def test_a_mark_is_read_from_the_text_of_one_row() -> None:
    row = ("100", "5000", "4000", "000000030000000000000001", "7", "11", None, str(AT))
    assert CommitMark.read(A, row) == MARK
    assert CommitMark.read(A, (*row[:6], "4500", row[7])) == replace(MARK, recovered_to=4500)
    assert CommitMark.read(A, (None, *row[1:])) is None


@pytest.mark.parametrize("column", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("value", [None, "", "x"])
def test_a_mark_that_cannot_be_read_is_none(column: int, value: str | None) -> None:
    row = ["100", "5000", "4000", "000000030000000000000001", "7", "11", None, str(AT)]
    row[column] = value
    with pytest.raises(
        UnreadableAnswerError, match="a:5432 gave an unreadable answer about a transaction"
    ):
        CommitMark.read(A, row)


def test_a_word_is_read_from_the_text_of_one_row() -> None:
    core = ("f", "1.0", "7", "11", "2", "000000030000000000000001", "0/9", None)
    probed = (*core, "0/8", None, "f", None)
    answer = read_answer(A, (*probed, "aborted"), several=False)
    assert (answer.status, answer.reading.timeline, answer.reading.started_at) == ("aborted", 3, 11)
    for row in ((), (*probed, "rolled back"), (*probed[1:], "aborted")):
        with pytest.raises(UnreadableAnswerError):
            read_answer(A, row, several=False)


def test_the_question_names_the_transaction() -> None:
    assert "pg_xact_status('100')" in question(MARK)


def test_the_error_tells_which_transaction_and_asks_again() -> None:
    error = CommitUnknownError(A, MARK, lambda seconds: (seconds, UNKNOWN))
    assert isinstance(error, HasqlError)
    assert (error.xid, error.host, error.timeline) == (100, A, 3)
    assert "transaction 100 on a:5432 (timeline 3)" in str(error)
    assert error.outcome(2.5) == (2.5, UNKNOWN)
    with pytest.raises(ValueError, match="timeout"):
        error.outcome(-1)
    bare = CommitUnknownError(A, None, lambda _: UNKNOWN)
    assert (bare.xid, bare.timeline, bare.outcome()) == (None, None, UNKNOWN)
