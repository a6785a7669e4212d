"""The arithmetic of the herd: the processor time that a host spends on probes and logins."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ("Cost", "Counts", "Share")

_OVER = 1.5
"""Multiple of the steady rate below which the burst counts as over."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The processor seconds of the server for each kind of probe and for a login."""

    full: float
    changes: float
    bare: float
    logins: float


@dataclass(frozen=True, slots=True)
class Counts:
    """How often a host was asked each kind of question, in intervals of `width` seconds."""

    full: Sequence[int]
    changes: Sequence[int]
    bare: Sequence[int]
    logins: Sequence[int]
    #: The index of the interval in which the fault happened.
    struck: int
    width: float


@dataclass(frozen=True, slots=True)
class Share:
    """The load of a host: probes per second, and the cores that it had to spend."""

    steady_rate: float
    #: The rates in the worst interval after the fault, and in the worst second.
    peak_rate: float
    worst_second_rate: float
    steady_cores: float
    peak_cores: float
    worst_second_cores: float
    #: Seconds from the fault until the rate of probes is what it was before, and stays so.
    settled_after: float

    @classmethod
    def of(cls, counts: Counts, cost: Cost) -> "Share":
        """Compute the load of a host."""
        struck, width = counts.struck, counts.width
        asked = tuple(zip(counts.full, counts.changes, counts.bare, strict=True))
        probes = [sum(each) for each in asked]
        spent = [
            full * cost.full + changes * cost.changes + bare * cost.bare + logins * cost.logins
            for (full, changes, bare), logins in zip(asked, counts.logins, strict=True)
        ]
        second = round(1 / width)
        # By whole seconds, because after a failover all clients stay in step for a while.
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
