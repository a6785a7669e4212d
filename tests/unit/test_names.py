"""Which addresses a name has left: those not in its last answer, or later if it rotates."""

from __future__ import annotations

import pytest

from hasql.cluster.names import NameHistory, plain_address


def history(*answers: str, every: float = 10.0) -> NameHistory:
    """Return the history of a name after answers such as ``a b``, `every` seconds apart."""
    known = NameHistory()
    for turn, answer in enumerate(answers):
        known.answered([f"10.0.0.{ord(each)}" for each in answer.split()], turn * every)
    return known


A, B, C = (f"10.0.0.{ord(each)}" for each in "abc")


def test_nothing_has_left_before_the_first_answer() -> None:
    known = NameHistory()
    assert not known.has_left(A, 0.0)
    assert (known.addresses, known.rotates) == ((), False)
    known.answered([], 0.0)
    assert not known.has_left(A, 0.0)


def test_an_address_has_left_when_the_answer_has_it_no_more() -> None:
    known = history("a b", "b c")
    assert [known.has_left(each, 10.0) for each in (A, B, C)] == [True, False, False]
    assert known.addresses == (B, C)


def test_another_order_or_more_addresses_are_no_departure() -> None:
    known = history("a b", "b a", "c b a")
    assert not any(known.has_left(each, 20.0) for each in (A, B, C))
    assert not known.rotates
    assert known.addresses == (C, B, A)


def test_an_empty_answer_changes_nothing() -> None:
    known = history("a", "")
    assert not known.has_left(A, 10.0)
    assert known.addresses == (A,)


def test_an_address_that_comes_back_marks_the_name_as_rotating() -> None:
    assert not history("a", "b", "b c").rotates
    assert history("a", "b", "a").rotates
    assert history("a", "b", "b c", "a c").rotates


def test_an_address_of_a_rotating_name_has_left_after_a_minute_of_absence() -> None:
    known = history("a", "b", "a")
    assert not known.has_left(B, 20.0 + 59.9)
    assert known.has_left(B, 20.0 + 60.0)
    assert not known.has_left(A, 1000.0)


def test_absence_begins_with_the_first_answer_without_the_address() -> None:
    known = history("a", "b", "a", "c", "c", "c")
    assert not known.has_left(A, 30.0 + 59.9)
    assert known.has_left(A, 30.0 + 60.0)


def test_absence_begins_anew_when_an_address_was_there_in_between() -> None:
    known = history("a", "b", "a", "b", "a", "b")
    assert not known.has_left(A, 50.0 + 59.9)


def test_an_address_that_no_answer_of_a_rotating_name_has_shown_is_missing_since_it_is_known() -> (
    None
):
    known = history("a", "b", "a")
    assert not known.has_left(C, 500.0)
    assert not known.has_left(C, 559.9)
    assert known.has_left(C, 560.0)


def test_an_address_that_no_answer_has_shown_has_left_a_name_that_does_not_rotate() -> None:
    assert history("a").has_left(C, 0.0)


def test_what_is_remembered_is_bounded() -> None:
    known = NameHistory()
    for number in range(3000):
        known.answered([f"10.0.{number // 250}.{number % 250}"], float(number))
    known.answered(["10.0.0.0"], 3000.0)
    assert not known.rotates, "it left longer ago than is remembered"
    known.answered(["10.0.11.249"], 3001.0)
    assert known.rotates


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10.0.0.1", "::ffff:10.0.0.1"),
        ("::1", "0:0:0:0:0:0:0:1"),
        ("2001:db8::a", "2001:DB8::A"),
    ],
)
def test_one_address_may_be_written_in_several_ways(one: str, other: str) -> None:
    known = NameHistory()
    known.answered([one], 0.0)
    assert not known.has_left(other, 0.0)
    known.answered([other], 1.0)
    assert not known.has_left(one, 1.0)
    assert plain_address(one) == plain_address(other)


def test_what_is_no_address_stays_as_it_is() -> None:
    assert plain_address("/var/run/postgresql") == "/var/run/postgresql"
