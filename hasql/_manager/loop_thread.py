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

#: Seconds that the thread has for ending once it is told to, besides those of its tasks.
_END_TIMEOUT = 1.0
#: Seconds between two looks of a waiting thread at the calls for which no thread could be started.
_LOOK_UP_FROM_WAITING = 1.0
#: Seconds within which the loop calls a function, unless it is held up.
_HELD_UP = 2.0


class _HeldUpError(Exception):
    """The loop is held up: it waits, perhaps for a lock of the thread that waits for the loop."""


class _Executor(ThreadPoolExecutor):
    """Runs in daemon threads what the loop cannot wait for, such as the look-up of a name.

    Python's own executor would keep the program alive until its threads have ended, and gevent's
    could not run.
    """

    def submit(self, work: Callable[..., _T], /, *args: Any, **kwargs: Any) -> "Future[_T]":
        """Run the work in a thread of its own."""
        return in_thread(partial(work, *args, **kwargs), "hasql look-up")


class LoopThread:
    """One event loop in a daemon thread of its own: it does not keep the program alive.

    Any thread may call an instance with a function: the loop then calls that function soon, and the
    caller does not wait. Nothing happens once the loop has ended.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: OsThread | None = None
        self._last: asyncio.Task[None] | None = None
        #: Calls log handlers, listeners and tracers, which may wait for what the loop has to find.
        self._outside = OutsideCalls()
        #: The outcomes that threads wait for.
        self._waited_for: set[ThreadWaiter[Any]] = set()

    @property
    def started(self) -> bool:
        """Whether it was ever started."""
        return self._thread is not None

    def start(self) -> None:
        """Start the thread. If that fails, or is interrupted, it counts as not started."""
        loop = asyncio.SelectorEventLoop(original("selectors", "DefaultSelector")())
        loop.set_default_executor(_Executor())
        thread = OsThread(partial(self._serve, loop), "hasql")
        try:
            thread.start()
        except BaseException:
            # The thread may be running all the same, unless no thread could be had: tell its loop
            # to stop. If it is not running, the loop is left to the garbage collector.
            loop.call_soon_threadsafe(loop.stop)
            raise
        self._loop, self._thread = loop, thread

    def __call__(self, function: Callable[..., object], /, *args: Any) -> None:
        with suppress(RuntimeError):  # closed meanwhile
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *args)

    def call_later(self, seconds: float, function: Callable[..., object], /, *args: Any) -> None:
        """Call a function after so many seconds; to be used in the loop itself."""
        if self._loop is not None:
            self._loop.call_later(seconds, function, *args)

    def run(
        self, work: Callable[[], Coroutine[Any, Any, _T]], *, look_every: float | None = None
    ) -> _T:
        """Run a coroutine function in the loop and wait for it; an exception here cancels it.

        Args:
            work: The coroutine function.
            look_every: Seconds between two looks at whether the loop goes on. None: no looks, and
                no limit to the wait.

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
        reply: ThreadWaiter[None] | None = None
        # With a limit: if nothing else is left to run, gevent takes a wait without one for a
        # deadlock and raises.
        while not done.ended_within(look_every or _LOOK_UP_FROM_WAITING):
            self._outside.catch_up()
            if look_every is None:
                continue
            if reply is not None and not reply.done():
                raise _HeldUpError
            reply = ThreadWaiter()
            self(reply.set_result, None)

    def _begin_work(self, work: LoopWork[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._waited_for.add(work.done)
        try:
            work.begin_in(loop)
        except RuntimeError:
            raise _over() from None
        if loop.is_closed():  # before it could begin the work, or see that a thread waits
            work.done.cancel()

    def run_last(self, work: Callable[[], Coroutine[Any, Any, object]], guard: object) -> None:
        """Run some last work in the loop and wait for it, unless the loop waits for this thread.

        The loop does so when a signal handler closes the manager in the middle of an acquire, which
        holds the guard or a lock of the driver's pool. The loop goes on once the handler has
        returned, does the work, and ends.
        """
        if is_held(guard):
            self.end_after(work)
            return
        try:
            self.run(work, look_every=_HELD_UP)
        except _HeldUpError:
            self.end_after(work)

    def end_after(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Let the loop do some last work and then end, without waiting for either."""

        async def last() -> None:
            try:
                await work()
            finally:
                self.stop()

        self(self._begin, last)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._loop is not None  # noqa: S101  # this is called in it
        self._last = self._loop.create_task(work())  # the loop itself holds a task only weakly

    def stop(self) -> None:
        """End the loop and its thread, and wait for that unless called in that thread."""
        if self._loop is None or self._thread is None:
            return
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._loop.stop)
        self.join()

    def join(self) -> None:
        """Wait a short time for the thread and its calls to end; in the thread itself, do not."""
        if self._thread is not None and not self._thread.is_current:
            self._thread.join(2 * _END_TIMEOUT)
            self._outside.finish(_END_TIMEOUT)

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
    """End what is still under way, such as a connect that nothing waits for, and its socket."""
    await end_tasks([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])


def _over() -> PoolManagerClosedError:
    return PoolManagerClosedError("the pool manager is closed")
