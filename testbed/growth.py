"""Measures how the time of a function grows with the length of its text."""

from __future__ import annotations

from time import thread_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("TIMES", "growth")

TIMES = 8
"""How many times longer the longer text is; a quadratic function takes 64 times longer for it."""

_REPEATED = 1000


def growth(work: Callable[[str], object], parts: tuple[str, str, str]) -> float:
    """Return how many times longer the work takes if the middle is repeated `TIMES` as often.

    The times are CPU seconds of this thread, and the least of several runs, because the machine may
    be busy.
    """
    beginning, middle, end = parts

    def seconds(repeated: int) -> float:
        text = beginning + middle * repeated + end
        began = thread_time()
        work(text)
        return thread_time() - began

    short = min(seconds(_REPEATED) for _ in range(5))
    return min(seconds(_REPEATED * TIMES) for _ in range(3)) / short
