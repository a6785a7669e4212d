"""How long a known answer for a name may be used, by a clock that the tests set."""

from __future__ import annotations

import pytest

from hasql.dns.answers import Reply
from hasql.dns.known_name import Known, KnownName, Unknown

FIRST = Reply(exists=True, addresses=("10.0.0.1", "10.0.0.2"), ttl=60.0)
SECOND = Reply(exists=True, addresses=("2001:db8::1",), ttl=20.0)
NONE = Reply(exists=True)
REASONS = ("10.0.0.53 answered SERVFAIL (A)",)


def name(*, grace_ttl: float = 30.0, extend_grace: bool = True) -> KnownName:
    return KnownName("db.test", grace_ttl, extend_grace=extend_grace)


def answered(known: KnownName, at: float, a: Reply = FIRST, aaaa: Reply = SECOND) -> KnownName:
    known.succeeded({"AAAA": aaaa, "A": a}, at, whole=True)
    return known


def fails(known: KnownName, at: float) -> None:
    known.failures += 1
    known.failed(REASONS, at)


def test_nothing_is_known_before_the_first_answer() -> None:
    known = name()
    assert not known.is_fresh(0.0)
    assert not known.may_serve(0.0)
    assert known.until_due(0.0) == 0.0
    assert known.outcome(0.0) == Unknown(())


def test_an_answer_has_all_addresses_and_the_shorter_of_their_ttls() -> None:
    known = answered(name(), 100.0)
    assert known.outcome(105.0) == Known((*FIRST.addresses, *SECOND.addresses), (), 15.0)
    assert known.is_fresh(119.9)
    assert not known.is_fresh(120.0)
    assert known.until_due(105.0) == 15.0


def test_a_kind_without_records_does_not_shorten_the_ttl() -> None:
    known = answered(name(), 100.0, aaaa=NONE)
    assert known.outcome(100.0) == Known(FIRST.addresses, (), 60.0)


def test_a_ttl_of_0_is_asked_for_again_after_a_second_and_told_as_0() -> None:
    known = answered(name(), 100.0, Reply(exists=True, addresses=("10.0.0.1",), ttl=0.0), NONE)
    assert known.asks_each_time
    assert known.is_fresh(100.9)
    assert known.until_due(100.0) == 1.0
    assert known.outcome(100.5) == Known(("10.0.0.1",), (), 0.0)


def test_an_answer_that_took_longer_than_its_ttl_is_one_for_who_waited() -> None:
    known = answered(name(grace_ttl=0.0), 100.0)
    assert known.outcome(500.0) == Known((*FIRST.addresses, *SECOND.addresses), (), 0.0)
    assert not known.may_serve(500.0)


def test_the_window_of_an_old_answer_doubles_with_each_failure_in_a_row() -> None:
    known = answered(name(), 100.0)  # its TTL ends at 120
    for window in (30.0, 60.0, 120.0, 240.0, 300.0, 300.0):
        fails(known, 121.0)
        assert known.grace_time == window
        assert known.may_serve(119.9 + window)
        assert known.outcome(119.9 + window) == Known(known.addresses, (), 0.0)
        assert not known.may_serve(120.0 + window)
        assert known.outcome(120.0 + window) == Unknown(REASONS)
    answered(known, 200.0)
    fails(known, 300.0)
    assert known.grace_time == 30.0


def test_the_window_stays_as_it_is_where_it_is_not_to_be_extended() -> None:
    known = answered(name(extend_grace=False), 100.0)
    for _ in range(5):
        fails(known, 121.0)
        assert known.grace_time == 30.0


@pytest.mark.parametrize(("grace_ttl", "window"), [(0.0, 0.0), (200.0, 300.0), (400.0, 400.0)])
def test_the_window_grows_to_300_seconds_unless_it_was_longer(
    grace_ttl: float, window: float
) -> None:
    known = answered(name(grace_ttl=grace_ttl), 100.0)
    for _ in range(1000):
        fails(known, 121.0)
    assert known.grace_time == window


def test_an_old_answer_serves_a_moment_while_the_name_is_looked_up() -> None:
    known = answered(name(grace_ttl=0.0), 100.0)
    assert known.may_serve(120.9)
    fails(known, 120.9)
    assert not known.may_serve(120.9)


def test_a_failure_is_not_tried_again_for_a_second() -> None:
    known = name()
    fails(known, 100.0)
    assert known.until_due(100.0) == 1.0
    assert known.until_due(101.0) == 0.0
    assert known.outcome(100.0) == Unknown(REASONS)


def test_a_kind_that_fails_alone_keeps_its_last_addresses_for_a_while() -> None:
    known = answered(name(), 100.0)
    known.succeeded(
        {"A": Reply(exists=True, addresses=("10.0.0.9",), ttl=60.0)}, 120.0, whole=False
    )
    assert known.addresses == ("10.0.0.9", *SECOND.addresses)
    assert known.until_due(120.0) == 5.0, "it is asked for again soon"


def test_what_a_kind_has_no_more_is_gone() -> None:
    known = answered(name(), 100.0)
    answered(known, 120.0, aaaa=NONE)
    assert known.addresses == FIRST.addresses
    assert known.history.has_left("2001:db8::1", 120.0)


def test_what_is_to_expire_is_due_at_once_but_not_within_a_second_of_its_question() -> None:
    known = answered(name(), 100.0)
    known.expire(100.2)
    assert known.is_fresh(100.9)
    assert known.until_due(100.2) == pytest.approx(0.8)
    known = answered(name(), 100.0)
    known.expire(110.0)
    assert not known.is_fresh(110.0)
    assert known.until_due(110.0) == 0.0
    fails(known, 110.0)
    known.expire(110.5)
    assert known.until_due(110.5) == 0.5, "a failure is no reason to ask more often"


def test_an_answer_of_the_system_serves_for_seconds_and_leaves_the_failures() -> None:
    known = name()
    fails(known, 100.0)
    known.system_answered(("10.0.0.7",), 100.0)
    assert (known.from_system, known.failures) == (True, 1)
    assert known.outcome(101.0) == Known(("10.0.0.7",), (), 4.0)
    assert known.until_due(100.0) == 5.0
    answered(known, 105.0)
    assert (known.from_system, known.failures) == (False, 0)
