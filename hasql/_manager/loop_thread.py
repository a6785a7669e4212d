"""The thread in which the event loop of a manager for threads runs."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from hasql._probing.monitors import end_tasks
from hasql.driver.loop_work import LoopWork
from hasql.driver.os_threads import OsThread, is_held, original
from hasql.driver.outside_calls import OutsideCalls, call_outside, check_may_wait
from hasql.driver.thread_waiter import ThreadWaiter
from hasql.driver.threads import in_thread
from hasql.errors import PoolManagerClosedError

__all__ = ("LoopThread",)

_T = TypeVar("_T")

#: Seconds in which the thread has to end once it is told to, beside those that its tasks have.
_LAST_WORDS = 1.0
#: Seconds after which who waits for it sees to what else is to be done.
_LOOK_UP_FROM_WAITING = 1.0
#: Seconds within which the loop calls something, unless it is held up.
_HELD_UP = 2.0


class _HeldUpError(Exception):
    """The loop waits for something, perhaps for what the thread holds that waits for the loop."""


class _Executor(ThreadPoolExecutor):
    """Has what the loop cannot wait for done by daemon threads, a look-up of a name for one.

    Python's own would keep the program alive until they have ended, and gevent's could not run.
    """

    def submit(self, work: Callable[..., _T], /, *args: Any, **kwargs: Any) -> "Future[_T]":
        """Have it done in a thread of its own."""
        return in_thread(partial(work, *args, **kwargs), "hasql look-up")


class LoopThread:
    """One event loop in a daemon thread of its own: it does not keep the program alive.

    Calling it with a function has that called in the loop soon, from any thread and without
    waiting; nothing happens once the loop has ended.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: OsThread | None = None
        self._last: asyncio.Task[None] | None = None
        #: Log handlers, listeners and tracers may wait for what the loop is to find.
        self._outside = OutsideCalls()
        #: What threads wait for.
        self._waited_for: set[ThreadWaiter[Any]] = set()

    @property
    def started(self) -> bool:
        """Whether it was ever started."""
        return self._thread is not None

    def start(self) -> None:
        """Start the thread. If that fails, or is interrupted, it has not started."""
        loop = asyncio.SelectorEventLoop(original("selectors", "DefaultSelector")())
        loop.set_default_executor(_Executor())
        thread = OsThread(partial(self._serve, loop), "hasql")
        try:
            thread.start()
        except BaseException:
            # It may be running all the same, if it was not for want of threads. If not, the loop is
            # the collector's.
            loop.call_soon_threadsafe(loop.stop)
            raise
        self._loop, self._thread = loop, thread

    def __call__(self, function: Callable[..., object], /, *args: Any) -> None:
        with suppress(RuntimeError):  # closed meanwhile
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *args)

    def call_later(self, seconds: float, function: Callable[..., object], /, *args: Any) -> None:
        """Have a function called after so many seconds; to be called in the loop itself."""
        if self._loop is not None:
            self._loop.call_later(seconds, function, *args)

    def run(
        self, work: Callable[[], Coroutine[Any, Any, _T]], *, look_every: float | None = None
    ) -> _T:
        """Do some work in the loop and wait for it; an exception in this thread cancels it.

        Args:
            work: What to do.
            look_every: Seconds between two looks at whether the loop goes on. None: it is waited
                for, however long that takes.

        Raises:
            HasqlError: This is the loop's own thread, which would wait for itself.
            PoolManagerClosedError: The loop has ended, or ends meanwhile.
            _HeldUpError: The loop has called nothing from one look to the next; the work is neither
                done nor cancelled.
        """
        assert self._loop is not None  # noqa: S101  # it was started
        if self._thread is not None and self._thread.is_current:
            check_may_wait()
        begun = LoopWork(work)
        done = begun.done
        try:
            self._begin_work(begun, self._loop)
            self._wait(done, look_every)
            return done.result()
        except CancelledError:
            raise _over() from None
        except _HeldUpError:
            raise
        except BaseException:
            begun.cancel()
            raise
        finally:
            self._waited_for.discard(done)

    def _wait(self, done: ThreadWaiter[Any], look_every: float | None) -> None:
        turn: ThreadWaiter[None] | None = None
        # With a limit, as gevent takes a wait without one, and nothing else to do, for an error.
        while not done.ended_within(look_every or _LOOK_UP_FROM_WAITING):
            self._outside.catch_up()
            if look_every is None:
                continue
            if turn is not None and not turn.done():
                raise _HeldUpError
            turn = ThreadWaiter()
            self(turn.set_result, None)

    def _begin_work(self, work: LoopWork[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._waited_for.add(work.done)
        try:
            work.begin_in(loop)
        except RuntimeError:
            raise _over() from None
        if loop.is_closed():  # before it could begin, or see that it is waited for
            work.done.cancel()

    def run_last(self, work: Callable[[], Coroutine[Any, Any, object]], guard: object) -> None:
        """Have the loop do some last work and wait for it, unless the loop waits for this thread.

        So it does where a signal's handler closes in the midst of an acquire, which has the guard
        or a lock of the driver's pool. It goes on once the handler has returned, and ends then.
        """
        if is_held(guard):
            self.end_after(work)
            return
        try:
            self.run(work, look_every=_HELD_UP)
        except _HeldUpError:
            self.end_after(work)

    def end_after(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Have the loop do some last work, and end then; this waits for neither."""

        async def last() -> None:
            try:
                await work()
            finally:
                self.stop()

        self(self._begin, last)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._loop is not None  # noqa: S101  # this is called in it
        self._last = self._loop.create_task(work())  # which the loop itself holds but weakly

    def stop(self) -> None:
        """End the loop and its thread, and wait for that unless this is that thread."""
        if self._loop is None or self._thread is None:
            return
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._loop.stop)
        self.join()

    def join(self) -> None:
        """Wait until the thread has ended and all is told, but not for long, and not in itself."""
        if self._thread is not None and not self._thread.is_current:
            self._thread.join(2 * _LAST_WORDS)
            self._outside.finish(_LAST_WORDS)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        self._outside.serve_this_thread()
        loop.set_exception_handler(_report_outside)
        try:
            loop.run_forever()
        finally:
            with suppress(Exception):
                loop.run_until_complete(_end_tasks())
                loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            for done in tuple(self._waited_for):
                done.cancel()


def _report_outside(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    call_outside(loop.default_exception_handler, context)


async def _end_tasks() -> None:
    """End what is still under way: a connect that nobody waits for any more, which has a socket."""
    await end_tasks([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])


def _over() -> PoolManagerClosedError:
    return PoolManagerClosedError("the pool manager is closed")
