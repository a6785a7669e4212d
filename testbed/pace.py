"""Measures how fast something is on a busy machine."""

from __future__ import annotations

from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("Pace", "fastest")


def fastest(work: Callable[[], object], times: int = 5) -> float:
    """Return the least seconds that some work has taken; a busy machine can only add to them."""
    taken = []
    for _ in range(times):
        began = perf_counter()
        work()
        taken.append(perf_counter() - began)
    return min(taken)


class Pace:
    """Counts how often the work was slow, compared with how often plain pauses were late.

    Args:
        limit: The seconds beyond which a measurement counts as slow.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._slow = 0
        self._late = 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Measure the work done within a block."""
        began = perf_counter()
        yield
        self._slow += perf_counter() - began > self._limit

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Measure a short pause, which the block makes."""
        began = perf_counter()
        yield
        self._late += perf_counter() - began > self._limit

    @property
    def slow(self) -> int:
        """How many more times the work was slow than the pauses were late."""
        return max(0, self._slow - self._late)
