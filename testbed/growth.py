"""How the time that a function takes grows with the text it is given."""

from __future__ import annotations

from time import thread_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("TIMES", "growth")

TIMES = 8
"""How many times as long the longer text is: what is quadratic takes 64 times as long there."""

_REPEATED = 1000


def growth(work: Callable[[str], object], parts: tuple[str, str, str]) -> float:
    """Return how many times as long a text takes whose middle is repeated `TIMES` as often.

    In CPU seconds of this thread, and the least of several runs: others may be at work, too.
    """
    beginning, middle, end = parts

    def seconds(repeated: int) -> float:
        text = beginning + middle * repeated + end
        began = thread_time()
        work(text)
        return thread_time() - began

    short = min(seconds(_REPEATED) for _ in range(5))
    return min(seconds(_REPEATED * TIMES) for _ in range(3)) / short
