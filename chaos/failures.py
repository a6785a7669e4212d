"""Failures: errors of operations, and how much of its time each operation had no processor.

A time budget is measured by the clock. A fault that ends in time on an idle machine may not do so
if other programs use the processors, and a reader of the error has to know that.
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
    """Runs from its creation; only the thread that made it may read it."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._waited = _waited()

    @property
    def seconds(self) -> float:
        """Seconds since the creation."""
        return time.monotonic() - self.began

    @property
    def starved(self) -> float:
        """How many of these seconds the thread was ready to run, but no processor was free."""
        return _waited() - self._waited


class Failure(NamedTuple):
    """An operation that has raised an error that it must not raise; see `Stopwatch`."""

    error: str
    seconds: float
    starved: float

    @classmethod
    def of(cls, error: Exception, watch: Stopwatch) -> Failure:
        """Record an error's first line, without the time that an acquire has waited."""
        line = f"{type(error).__name__}: {error}".partition("\n")[0]
        line = re.sub(r"within [0-9.e+-]+ s", "in time", line)
        return cls(line, watch.seconds, watch.starved)


def tell(failures: Iterable[Failure]) -> Iterator[str]:
    """Tell how often each error occurred, and how its longest operation spent its time."""
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
    """Return the seconds that this thread has waited so far; 0 if the kernel does not tell.

    https://docs.kernel.org/scheduler/sched-stats.html
    """
    try:
        return int(_OF_THREAD.read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
