"""Judges moves of names: computed from where each lease led, and how long each acquire took."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chaos.name_load import NamedLease

__all__ = ("Move", "NameOutcome", "added", "latest", "overdue", "renewed")

_SOONEST = 1.0
"""The least seconds from one look-up of a name to the next, however short its TTL."""

_GOAL = 0.1
"""Seconds after that during which a connection to the old address may still be handed out."""


class Move(NamedTuple):
    """The move of a server's name away from an address, for good, at `at` in monotonic seconds."""

    port: int
    left: str
    at: float
    ttl: int

    @property
    def due(self) -> float:
        """The time from which on no lease may lead to the old address."""
        return self.at + max(self.ttl, _SOONEST) + _GOAL


@dataclass(frozen=True, slots=True)
class NameOutcome:
    """The outcome for one driver. Durations are seconds; None if the scene does not measure it."""

    scenario: str
    driver: str
    leases: int
    #: How often a server's name has left an address.
    moves: int
    #: The longest time after a move that a lease led to the old address, and how much of that is
    #: beyond what the name's TTL explains.
    old_for: float | None
    overdue: float | None
    #: Connections opened after it was known that names rotate.
    renewed: int | None
    #: How much longer an acquire takes while the nameserver is away: by the medians, and by the
    #: slowest in a hundred.
    added: float | None
    added_of_slowest: float | None
    failed: int
    #: Acknowledged rows that are missing.
    lost: int
    hang: float
    problems: tuple[str, ...] = ()


def latest(leases: Sequence[NamedLease], moves: Sequence[Move]) -> float | None:
    """Return the longest time after a move that a lease led to the old address."""
    if not moves:
        return None
    return max((lease.at - move.at for lease, move in _left(leases, moves)), default=0.0)


def overdue(leases: Sequence[NamedLease], moves: Sequence[Move]) -> float | None:
    """Return by how much the latest such lease exceeds the bound; 0 if none does."""
    if not moves:
        return None
    return max([0.0, *(lease.at - move.due for lease, move in _left(leases, moves))])


def _left(leases: Sequence[NamedLease], moves: Sequence[Move]) -> Iterator[tuple[NamedLease, Move]]:
    """Yield the leases that led to an address after the server's name had left it."""
    for move in moves:
        for lease in leases:
            if (lease.port, lease.address) == (move.port, move.left) and lease.at > move.at:
                yield lease, move


def renewed(leases: Sequence[NamedLease], since: float) -> int:
    """Count the connections that no lease had before `since`."""
    known = {(lease.port, lease.pid) for lease in leases if lease.at < since}
    return len({(lease.port, lease.pid) for lease in leases if lease.at >= since} - known)


def added(waits: Sequence[float], beside: Sequence[float]) -> tuple[float, float]:
    """Return how much longer acquires take than `beside`: medians, and the slowest in a hundred."""
    return median(waits) - median(beside), _slowest(waits) - _slowest(beside)


def _slowest(waits: Sequence[float]) -> float:
    return quantiles(waits, n=100)[-1]
