"""The deadline of an acquire, and work whose first step was taken by hand.

Most acquires end without a pause, as the pool has an idle connection, and need neither a timer nor
a task: so the first step is taken by hand, and the rest is left to `by_deadline` if there is any.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from time import monotonic
from typing import Any, Generic, TypeVar

__all__ = ("Begun", "OutOfTimeError", "by_deadline", "cancellations")

_T = TypeVar("_T")


class OutOfTimeError(Exception):
    """The deadline of an acquire has come while the driver was at work; never leaves hasql."""


async def by_deadline(
    work: Awaitable[_T], deadline: float, patience: float, on_long_wait: Callable[[], object]
) -> _T:
    """Do the work, or raise OutOfTimeError at `deadline`, in seconds of time.monotonic().

    `on_long_wait` is called once if it takes longer than `patience` seconds.
    """
    watch = asyncio.get_running_loop().call_later(patience, on_long_wait)
    timer = asyncio.timeout(deadline - monotonic())
    try:
        async with timer:
            return await work
    except TimeoutError:
        if timer.expired():
            raise OutOfTimeError from None
        raise
    finally:
        watch.cancel()


def cancellations() -> int:
    """Count this task's cancellations, with those that a driver has lost.

    Drivers wait with `asyncio.wait_for`, which up to Python 3.11 forgets one that comes in the same
    turn of the loop as the end of what it waits for. What they wait for next has no end then.
    """
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class Begun(Generic[_T]):
    """The rest of some work whose first step was taken by hand."""

    def __init__(self, steps: Generator[Any, Any, _T], paused_on: object) -> None:
        self._steps = steps
        self._paused_on = paused_on

    def __await__(self) -> Generator[Any, Any, _T]:
        try:
            yield self._paused_on
        except BaseException as error:  # noqa: BLE001  # it belongs to the work, as cancellations do
            try:
                paused_on = self._steps.throw(error)
            except StopIteration as done:
                result: _T = done.value
                return result
            return (yield from Begun(self._steps, paused_on).__await__())
        return (yield from self._steps)
