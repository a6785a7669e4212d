"""The deadline of an acquire, kept by a timer only where the work turns out to wait."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

__all__ = ("OutOfTimeError", "by_deadline")

_T = TypeVar("_T")


class OutOfTimeError(Exception):
    """The deadline of an acquire has come while the driver was at work; never leaves hasql."""


async def by_deadline(
    work: Awaitable[_T], deadline: float, patience: float, on_long_wait: Callable[[], None]
) -> _T:
    """Do the work, or raise OutOfTimeError at `deadline`, in seconds of the loop's clock.

    Most work ends without a pause, a pool having an idle connection, and needs no timer: so the
    first step is taken by hand, and a timer set if there are more. `on_long_wait` is called once
    if it takes longer than `patience` seconds.
    """
    steps = work.__await__()
    try:
        paused_on = next(steps)
    except StopIteration as done:
        result: _T = done.value
        return result
    watch = asyncio.get_running_loop().call_later(patience, on_long_wait)
    timer = asyncio.timeout_at(deadline)
    try:
        async with timer:
            return await _Begun(steps, paused_on)
    except TimeoutError:
        if timer.expired():
            raise OutOfTimeError from None
        raise
    finally:
        watch.cancel()


class _Begun(Generic[_T]):
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
            return (yield from _Begun(self._steps, paused_on).__await__())
        return (yield from self._steps)
