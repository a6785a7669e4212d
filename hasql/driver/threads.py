"""Work that is done in a thread of its own, so that the caller that waits for it can give up.

While Python shuts down it starts no more threads, from 3.12 on not even for `atexit` functions.
"""

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

from hasql.driver.kept_errors import for_future
from hasql.driver.os_threads import OsThread
from hasql.driver.thread_waiter import ThreadWaiter
from hasql.driver.time_left import TimeLeft

__all__ = ("end_in_thread", "in_thread", "wait_in_thread")

_T = TypeVar("_T")


def in_thread(
    work: Callable[[], _T], name: str, discard: Callable[[_T], object] = lambda _: None
) -> "Future[_T]":
    """Begin some work in a daemon thread; if it is cancelled, `discard` is given its result."""
    future: Future[_T] = Future()
    _begin(future, work, name, discard)
    return future


def _begin(
    awaited: "Future[_T] | ThreadWaiter[_T]",
    work: Callable[[], _T],
    name: str,
    discard: Callable[[_T], object],
) -> None:
    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  # for the thread that waits
            with suppress(InvalidStateError):
                awaited.set_exception(for_future(error))
            return
        try:
            awaited.set_result(result)
        except InvalidStateError:
            discard(result)

    OsThread(run, name).start()


def end_in_thread(work: Callable[[], object], name: str) -> "Future[object]":
    """Begin to end something in a daemon thread, or while Python shuts down do it at once."""
    try:
        return in_thread(work, name)
    except RuntimeError:  # no thread can be started any more
        done: Future[object] = Future()
        try:
            done.set_result(work())
        except Exception as error:  # noqa: BLE001  # for the thread that waits
            done.set_exception(error)
        return done


def wait_in_thread(
    time_left: TimeLeft, work: Callable[[], _T], name: str, discard: Callable[[_T], object]
) -> _T:
    """Do some work in a thread and wait for it; a result that comes too late is discarded."""
    awaited: ThreadWaiter[_T] = ThreadWaiter()
    try:
        _begin(awaited, work, name, discard)
        return time_left.wait(awaited)
    except BaseException:
        if not awaited.cancel() and awaited.exception() is None:
            discard(awaited.result())
        raise
