"""Work whose first step is taken by hand: most work has only one, as with an idle connection."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar

__all__ = ("Begun", "Detachable", "begin", "begin_detachable")

_T = TypeVar("_T")


#: Takes the place of the future that work pauses on, if the work has ended instead.
_ENDED = object()


def begin(work: Awaitable[None]) -> "Begun[None] | None":
    """Take the first step of some work by hand; return the rest of it, or None if that was all.

    Most acquires and releases have only one step, because the driver's pool has an idle connection,
    or there is nothing to roll back. They then need no timer and no task, which would cost more
    than the step. The work returns nothing, because a value would cost an exception to carry it.
    """
    steps = work.__await__()
    paused_on = next(steps, _ENDED)
    return None if paused_on is _ENDED else Begun(steps, paused_on)


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


def begin_detachable(
    work: Awaitable[None], detach: "Callable[[Detachable[None], Any], bool]", argument: object
) -> "Detachable[None] | None":
    """Take the first step of some work as `begin` does; the rest can be detached."""
    steps = work.__await__()
    paused_on = next(steps, _ENDED)
    return None if paused_on is _ENDED else Detachable(steps, paused_on, detach, argument)


class Detachable(Generic[_T]):
    """The rest of some work whose first step was taken by hand, for one task after another.

    A cancellation of the task that awaits it does not reach the work. Instead, `detach` is called
    with this object and with `argument`. If it returns True, another task awaits the work from now
    on, and the cancellation is raised in the task that was cancelled. If it returns False, the work
    is cancelled.

    So the work must not belong to a task, as code within `asyncio.timeout` or a cancel scope does.
    It needs no task of its own as long as nothing is cancelled.
    """

    # A task that is cancelled cancels the future it waits for before anything else happens. So this
    # object stands in for the future, with all that `asyncio.isfuture` takes. It is one object for
    # both purposes, because most releases come this way. With `asyncio.shield` instead, each pause
    # would last for one more turn of the event loop.

    __slots__ = (
        "_argument",
        "_asyncio_future_blocking",
        "_context",
        "_detach",
        "_future",
        "_interrupted",
        "_message",
        "_steps",
        "_wake",
        "get_loop",
    )

    def __init__(
        self,
        steps: Generator[Any, Any, _T],
        paused_on: Any,  # a future of any kind, or None
        detach: Callable[["Detachable[_T]", Any], bool],
        argument: object,
    ) -> None:
        self._steps = steps
        self._future = paused_on
        self._detach = detach
        self._argument = argument

    def __await__(self) -> Generator[Any, Any, _T]:
        error: BaseException | None = None
        while True:
            future = self._future
            self._interrupted = False
            try:
                if future is None:
                    yield None
                else:
                    self.get_loop = future.get_loop
                    self._asyncio_future_blocking = True
                    yield self
            except BaseException as raised:  # for the work, unless the task is cancelled
                if self._is_cancelled(raised):
                    if self._detach(self, self._argument):
                        raise
                    if future is not None:
                        future.cancel()
                error = raised
            try:
                if error is None:
                    self._future = self._steps.send(None)
                else:
                    thrown, error = error, None
                    self._future = self._steps.throw(thrown)
            except StopIteration as done:
                result: _T = done.value
                return result

    async def finish(self) -> _T:
        """Wait for the work; a task can run this."""
        return await self

    def _is_cancelled(self, error: BaseException) -> bool:
        """Tell whether the task was cancelled, and not the future that it waits for."""
        if not isinstance(error, asyncio.CancelledError):
            return False
        # Both may have been cancelled; or the task was, when its future was done already.
        return self._future is None or self._interrupted or not self._future.cancelled()

    # What a task asks of a future

    def add_done_callback(
        self, wake: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """Register what wakes the task: with the future itself, unless `cancel` comes first."""
        self._wake, self._context = wake, context
        self._future.add_done_callback(wake, context=context)

    def cancel(self, msg: object = None) -> bool:
        """Wake the task that waits, without touching the future."""
        if self._interrupted or self._future.done():
            return False
        self._interrupted = True
        self._message = msg
        self._future.remove_done_callback(self._wake)
        self.get_loop().call_soon(self._wake, self, context=self._context)
        return True

    def result(self) -> None:
        """Raise the cancellation of the woken task, with the message that scopes know it by."""
        raise asyncio.CancelledError(*(() if self._message is None else (self._message,)))
