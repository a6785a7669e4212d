"""What names that move have cost: worked out from where each lease led, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chaos.name_load import NamedLease

__all__ = ("Move", "NameOutcome", "added", "latest", "overdue", "renewed")

_SOONEST = 1.0
"""Seconds from one look-up of a name to the next, however short its TTL."""

_GOAL = 0.1
"""Seconds after that in which the last connection to an address that was left is handed out."""


class Move(NamedTuple):
    """A server's name left an address for good at `at`, in monotonic seconds."""

    port: int
    left: str
    at: float
    ttl: int

    @property
    def due(self) -> float:
        """From when on no lease may lead to what it left."""
        return self.at + max(self.ttl, _SOONEST) + _GOAL


@dataclass(frozen=True, slots=True)
class NameOutcome:
    """How one driver fared. Durations are seconds; None where the scene is about something else."""

    scenario: str
    driver: str
    leases: int
    #: How often a server's name has left an address.
    moves: int
    #: The longest after a move that a lease led to the address that was left, and how much of it
    #: is beyond what the name's TTL explains.
    old_for: float | None
    overdue: float | None
    #: Connections opened after it was known that names rotate.
    renewed: int | None
    #: What an acquire takes more while the nameserver is away: the median, and one of a hundred.
    added: float | None
    added_of_slowest: float | None
    failed: int
    #: Acknowledged and missing.
    lost: int
    hang: float
    problems: tuple[str, ...] = ()


def latest(leases: Sequence[NamedLease], moves: Sequence[Move]) -> float | None:
    """Return how long after a move a lease led to the address that was left, at most."""
    if not moves:
        return None
    return max((lease.at - move.at for lease, move in _left(leases, moves)), default=0.0)


def overdue(leases: Sequence[NamedLease], moves: Sequence[Move]) -> float | None:
    """Return by how much the latest of them is beyond the bound, 0 if none is."""
    if not moves:
        return None
    return max([0.0, *(lease.at - move.due for lease, move in _left(leases, moves))])


def _left(leases: Sequence[NamedLease], moves: Sequence[Move]) -> Iterator[tuple[NamedLease, Move]]:
    """Yield the leases on an address that the server's name had left before."""
    for move in moves:
        for lease in leases:
            if (lease.port, lease.address) == (move.port, move.left) and lease.at > move.at:
                yield lease, move


def renewed(leases: Sequence[NamedLease], since: float) -> int:
    """Count the connections that nobody had before."""
    known = {(lease.port, lease.pid) for lease in leases if lease.at < since}
    return len({(lease.port, lease.pid) for lease in leases if lease.at >= since} - known)


def added(waits: Sequence[float], beside: Sequence[float]) -> tuple[float, float]:
    """Return how much longer acquires take than those beside: the median, and one of a hundred."""
    return median(waits) - median(beside), _slowest(waits) - _slowest(beside)


def _slowest(waits: Sequence[float]) -> float:
    return quantiles(waits, n=100)[-1]
