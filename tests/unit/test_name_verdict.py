"""The arithmetic of the chaos scenes in which names move."""

from __future__ import annotations

import pytest

from chaos.name_load import NamedLease
from chaos.name_verdict import Move, added, latest, overdue, renewed

PORT, OLD, NEW = 5432, "127.0.0.1", "127.0.0.2"
MOVE = Move(PORT, OLD, at=10.0, ttl=1)


def lease(at: float, address: str = OLD, port: int = PORT, pid: int = 1) -> NamedLease:
    return NamedLease(port, address, pid, at)


def test_a_lease_on_the_old_address_counts_from_the_move_on() -> None:
    leases = [lease(9.0), lease(10.5), lease(11.0), lease(12.0, NEW), lease(13.0, port=5433)]
    assert (latest(leases, [MOVE]), overdue(leases, [MOVE])) == (1.0, 0.0)
    leases = [*leases, lease(11.25)]
    assert latest(leases, [MOVE]) == 1.25
    assert overdue(leases, [MOVE]) == pytest.approx(0.15)


def test_nothing_on_the_old_address_is_no_time_at_all() -> None:
    assert (latest([lease(9.0)], [MOVE]), overdue([lease(9.0)], [MOVE])) == (0.0, 0.0)


def test_without_a_move_there_is_nothing_to_tell() -> None:
    assert (latest([lease(9.0)], []), overdue([lease(9.0)], [])) == (None, None)


@pytest.mark.parametrize(("ttl", "due"), [(0, 11.1), (1, 11.1), (2, 12.1)])
def test_a_short_ttl_is_a_second(ttl: int, due: float) -> None:
    assert MOVE._replace(ttl=ttl).due == pytest.approx(due)


def test_each_move_has_a_bound_of_its_own() -> None:
    moves = [MOVE, Move(5433, OLD, at=20.0, ttl=2)]
    leases = [lease(11.5), lease(21.9, port=5433)]
    assert latest(leases, moves) == pytest.approx(1.9)
    assert overdue(leases, moves) == pytest.approx(0.4)


def test_a_connection_is_renewed_if_nobody_had_it_before() -> None:
    leases = [lease(1.0, pid=1), lease(2.0, pid=2), lease(3.0, pid=1), lease(3.0, pid=3)]
    assert renewed(leases, since=2.5) == 1
    assert renewed(leases, since=4.0) == 0


def test_what_an_acquire_takes_more_is_told_of_the_median_and_of_the_slowest() -> None:
    beside = [number / 1000 for number in range(100)]
    more, of_slowest = added([wait + 0.5 for wait in beside], beside)
    assert more == pytest.approx(0.5)
    assert of_slowest == pytest.approx(0.5)
    more, of_slowest = added([*beside[:-3], 5.0, 5.0, 5.0], beside)
    assert more == 0.0
    assert of_slowest > 4.0
