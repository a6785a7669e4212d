"""The arithmetic of the herd: what a host has to spend on what it was asked."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ("Cost", "Counts", "Share")

_OVER = 1.5
"""Times the steady rate; below it the burst counts as over."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor seconds of the server, for one of each."""

    full: float
    changes: float
    bare: float
    logins: float


@dataclass(frozen=True, slots=True)
class Counts:
    """How often one host was asked what, in columns of `width` seconds."""

    full: Sequence[int]
    changes: Sequence[int]
    bare: Sequence[int]
    logins: Sequence[int]
    #: The column in which the fault happened.
    struck: int
    width: float


@dataclass(frozen=True, slots=True)
class Share:
    """What one host saw, in probes per second, and had to spend, in cores."""

    steady_rate: float
    #: In the worst column after the fault, and in the worst second.
    peak_rate: float
    worst_second_rate: float
    steady_cores: float
    peak_cores: float
    worst_second_cores: float
    #: Seconds from the fault until the rate of probes is what it was, and stays so.
    settled_after: float

    @classmethod
    def of(cls, counts: Counts, cost: Cost) -> "Share":
        """Work it out."""
        struck, width = counts.struck, counts.width
        asked = tuple(zip(counts.full, counts.changes, counts.bare, strict=True))
        probes = [sum(each) for each in asked]
        spent = [
            full * cost.full + changes * cost.changes + bare * cost.bare + logins * cost.logins
            for (full, changes, bare), logins in zip(asked, counts.logins, strict=True)
        ]
        second = round(1 / width)
        # By whole seconds: after a failover all clients keep in step for a while.
        rates, cores = _sums(probes[struck:], second), _sums(spent[struck:], second)
        steady = sum(probes[:struck]) / (struck * width)
        busy = [at for at, rate in enumerate(rates) if rate > _OVER * steady]
        return cls(
            steady_rate=steady,
            peak_rate=max(probes[struck:]) / width,
            worst_second_rate=max(rates),
            steady_cores=sum(spent[:struck]) / (struck * width),
            peak_cores=max(spent[struck:]) / width,
            worst_second_cores=max(cores),
            settled_after=(busy[-1] + second) * width if busy else 0.0,
        )


def _sums(values: Sequence[float], length: int) -> list[float]:
    return [sum(values[at : at + length]) for at in range(len(values) - length + 1)]
