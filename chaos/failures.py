"""Failures: errors of operations, and for how much of its time each had no processor.

A budget is seconds of a clock. Where other programs have the processors, a fault that ends in time
on a machine at rest does not, and whoever reads of an error has to know.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ("Failure", "Stopwatch", "tell")

_OF_THREAD = Path("/proc/thread-self/schedstat")


class Stopwatch:
    """Runs from when it is made; to be read by the same thread."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._waited = _waited()

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return time.monotonic() - self.began

    @property
    def starved(self) -> float:
        """For how many of them the thread could have run, and no processor was free for it."""
        return _waited() - self._waited


class Failure(NamedTuple):
    """An operation that has raised what it must not; see `Stopwatch`."""

    error: str
    seconds: float
    starved: float

    @classmethod
    def of(cls, error: Exception, watch: Stopwatch) -> Failure:
        """Take note of an error's first line, without how long an acquire has waited."""
        line = f"{type(error).__name__}: {error}".partition("\n")[0]
        line = re.sub(r"within [0-9.e+-]+ s", "in time", line)
        return cls(line, watch.seconds, watch.starved)


def tell(failures: Iterable[Failure]) -> Iterator[str]:
    """Say how often there was each error, and what its longest operation has waited for."""
    by_error: dict[str, list[Failure]] = {}
    for each in failures:
        by_error.setdefault(each.error, []).append(each)
    for error, alike in by_error.items():
        longest = max(alike, key=lambda each: each.seconds)
        yield (
            f"{len(alike)} times {error}, the longest after {longest.seconds:.1f} s, "
            f"{longest.starved:.1f} s of them without a processor"
        )


def _waited() -> float:
    """Return the seconds so far; where the kernel does not tell, 0.

    https://docs.kernel.org/scheduler/sched-stats.html
    """
    try:
        return int(_OF_THREAD.read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
