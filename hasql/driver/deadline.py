"""The deadline of an acquire, and work whose first step was taken by hand.

Most acquires end without a pause, because the pool has an idle connection, and need neither a timer
nor a task. So the first step is taken by hand, and `by_deadline` does the rest if there is any.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

__all__ = (
    "OutOfTimeError",
    "SlowConnectError",
    "by_deadline",
    "cancel_again",
    "cancellations",
)

_T = TypeVar("_T")


class OutOfTimeError(Exception):
    """The deadline of an acquire has passed while the driver was at work; never leaves hasql."""


class SlowConnectError(TimeoutError):
    """An acquire's deadline passed before its connect was done, which says little about a host."""


async def by_deadline(
    work: Awaitable[_T], seconds: float, long_wait: float, on_long_wait: Callable[[], object]
) -> _T:
    """Do the work, or raise OutOfTimeError after so many seconds.

    `on_long_wait` is called once if the work takes longer than `long_wait` seconds.
    """
    watch = asyncio.get_running_loop().call_later(long_wait, on_long_wait)
    timer = asyncio.timeout(seconds)
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
    """Count this task's cancellations, including those that a driver has lost.

    Drivers wait with `asyncio.wait_for`. Up to Python 3.11 that loses a cancellation that comes in
    the same turn of the loop as the end of what it waits for. The driver's next wait then has no
    end.
    """
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


async def cancel_again() -> NoReturn:
    """Raise once more a cancellation of this task that a driver has lost.

    Cancel scopes of anyio recognize their own cancellation by its message. That is lost as well,
    but they cancel the task again at each of its steps.
    """
    for _ in range(2):
        await asyncio.sleep(0)
    raise asyncio.CancelledError
