"""The arithmetic of laps that were run side by side: ratios, not absolute times.

Each ratio has two figures, because the machine is never idle. The median of the ratios within each
round is the typical ratio of a run; the ratio of the shortest laps is that of an idle machine.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ("Lap", "Ratio", "added", "share_of_added", "times_bare")


@dataclass(frozen=True, slots=True)
class Lap:
    """Seconds for one operation, in one round: with the driver's pool alone, and through hasql."""

    bare: float
    managed: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio, computed in two ways."""

    median: float
    of_minima: float

    def __str__(self) -> str:
        return f"{self.median:6.2f} {self.of_minima:6.2f}"


def times_bare(laps: Sequence[Lap]) -> Ratio:
    """Return how many times longer an operation takes through hasql than without it."""
    bare, managed = _minima(laps)
    return Ratio(median(lap.managed / lap.bare for lap in laps), managed / bare)


def added(laps: Sequence[Lap]) -> float:
    """Return the seconds that hasql adds to an operation."""
    return median(lap.managed - lap.bare for lap in laps)


def share_of_added(ours: Sequence[Lap], peers: Sequence[Lap]) -> Ratio:
    """Return what ours adds as a share of what the peer adds; the lists are ordered by round."""
    shares = [_added(one) / _added(other) for one, other in zip(ours, peers, strict=True)]
    (bare, managed), (peers_bare, peers_managed) = _minima(ours), _minima(peers)
    return Ratio(median(shares), (managed - bare) / (peers_managed - peers_bare))


def _added(lap: Lap) -> float:
    return lap.managed - lap.bare


def _minima(laps: Iterable[Lap]) -> tuple[float, float]:
    bare, managed = zip(*((lap.bare, lap.managed) for lap in laps), strict=True)
    return min(bare), min(managed)
