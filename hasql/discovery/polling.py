"""The polling of a source that does not report changes itself: when it is asked again."""

import asyncio
from contextlib import suppress
from math import inf
from random import Random
from typing import Final

from hasql.cluster.checks import check_seconds

__all__ = ("Polling",)

_LEAST_PAUSE: Final = 1.0
"""The least pause between two questions in seconds, even after `hurry`."""
_JITTER: Final = 0.25


class Polling:
    """Pauses of about `interval` seconds between questions, cut short by `hurry`.

    Each pause differs from `interval` at random, by up to a quarter, so that processes that have
    started together do not keep asking together.

    Raises:
        ConfigurationError: `interval` is not above zero.
        TypeError: `interval` is not a number.
    """

    def __init__(self, interval: float) -> None:
        self._interval = check_seconds("interval", interval, positive=True)
        self._chance = Random()  # noqa: S311  # no secret
        self._hurried: asyncio.Event | None = None

    def hurry(self) -> None:
        """End the current pause, but not before it has lasted a second."""
        if self._hurried is not None:
            self._hurried.set()

    async def pause(self, longest: float = inf) -> None:
        """Wait until it is time to ask again: at most `longest` seconds, or one if that is less."""
        hurried = self._hurried = asyncio.Event()
        pause = self._interval * self._chance.uniform(1 - _JITTER, 1 + _JITTER)
        pause = min(pause, max(longest, _LEAST_PAUSE))
        least = min(pause, _LEAST_PAUSE)
        await asyncio.sleep(least)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause - least):
                await hurried.wait()
