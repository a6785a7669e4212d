"""When chaos counts a lease of a replica that was on a master as wrong."""

from __future__ import annotations

from chaos.lease_load import Lease
from chaos.lease_verdict import Reign, is_stale

PORT, OTHER, GRACE = 5432, 5433, 1.0
REIGN = Reign(PORT, 10.0)


def lease(at: float, answered: float | None = None, *, in_recovery: bool = False) -> Lease:
    return Lease(True, PORT, 1, in_recovery, at, at + 0.01 if answered is None else answered)


def test_a_lease_is_stale_once_its_server_has_been_a_master_for_long() -> None:
    assert is_stale(lease(11.1), [REIGN], GRACE)
    assert not is_stale(lease(10.9), [REIGN], GRACE)
    assert not is_stale(lease(11.1, in_recovery=True), [REIGN], GRACE)
    assert not is_stale(lease(11.1), [Reign(OTHER, 10.0)], GRACE)


def test_a_server_that_was_promoted_before_the_answer_was_a_standby_when_it_was_leased() -> None:
    """A statement may wait that long at a pooler; the server may also have been a master before."""
    before, between, again = Reign(PORT, 2.0, 5.0), Reign(OTHER, 5.0, 10.0), REIGN
    reigns = [before, between, again]
    assert not is_stale(lease(9.999, 10.3), reigns, GRACE)
    assert is_stale(lease(11.1), reigns, GRACE)
