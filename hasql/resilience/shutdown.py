"""The shutdown of a program by signals: work in flight may finish, and then the program ends."""

import _thread
import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from inspect import iscoroutinefunction
from types import FrameType
from typing import Any, Final, Protocol, TypeAlias, TypeGuard

from hasql.cluster.checks import check_seconds
from hasql.diagnostics import about
from hasql.driver.os_threads import original
from hasql.errors import ConfigurationError, WrongEventLoopError

__all__ = ("AsyncDrainable", "Drainable", "shutdown_on_signals")

log = logging.getLogger("hasql")

_Handler: TypeAlias = Callable[[int, FrameType | None], Any]

#: Packages of web servers. They handle signals themselves, and must stop accepting requests before
#: anything is drained.
_SERVERS: Final = frozenset({"aiohttp", "daphne", "granian", "gunicorn", "hypercorn", "uvicorn"})
#: Seconds after which the main thread is told again that all managers are drained.
_ASKED_AGAIN: Final = 0.2
#: Seconds that each remaining thread has to end by itself, if the main thread has ended.
_OTHERS_END: Final = 1.0


class Drainable(Protocol):
    """A pool manager of `hasql.sync`, which the calling thread drains."""

    def drain(self, timeout: float = ...) -> object:
        """Let work in flight end, and close."""


class AsyncDrainable(Protocol):
    """Any other pool manager, which is drained in its event loop."""

    def drain(self, timeout: float = ...) -> Awaitable[object]:
        """Let work in flight end, and close."""


def shutdown_on_signals(
    pool: Drainable | AsyncDrainable,
    *more: Drainable | AsyncDrainable,
    signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT),
    timeout: float = 30.0,
) -> None:
    """Drain the pool managers on the first of these signals, and then end the program.

    This is for programs without a web server: a web server has signal handlers of its own, and must
    drain last.

    While the managers drain, nothing is cancelled, not even by `asyncio.run`. Then the handler that
    the signal had before is called. If it had none, the program ends: after SIGINT by
    KeyboardInterrupt, else by SystemExit with exit code 0, raised in the main thread, or in the
    event loop. A second signal ends the program at once, with exit code 128 plus its number and
    without any clean-up. A signal that the program was started to ignore, for example by ``nohup``,
    stays ignored.

    Call this once, in the main thread, with all managers of the program. If one of them is async,
    call it in the coroutine that uses that manager.

    Args:
        pool: A pool manager, for tasks or for threads, started or not.
        more: Other pool managers, of either kind. All are drained at the same time.
        signals: The numbers of the signals; by default SIGTERM and SIGINT.
        timeout: How many seconds work in flight has to end. What is still in use then is broken,
            and the log says what that was.

    Raises:
        ConfigurationError: This is not the main thread, or the system is Windows, which has no such
            signals; or `signals` is empty; or a signal cannot be caught, or has a handler that
            cannot be called later: one of `loop.add_signal_handler`, or of a web server.
        WrongEventLoopError: A manager is async, and no event loop runs here.
        TypeError: An argument to be drained is not a pool manager.
    """
    pools = tuple(dict.fromkeys((pool, *more)))
    for each in pools:
        if not callable(getattr(each, "drain", None)):
            msg = f"shutdown_on_signals takes pool managers, which have drain(), not {each!r}"
            raise TypeError(msg)
    seconds = check_seconds("timeout", timeout)
    _check_place()
    loop = _loop_of(pools)
    found = _handlers_of(tuple(signals))
    shutdown = _Shutdown(pools, seconds, loop, found)
    for number in found:
        signal.signal(number, shutdown.receive)


def _check_place() -> None:
    if sys.platform == "win32":
        raise ConfigurationError(
            "shutdown_on_signals needs Unix signals, which Windows does not have: drain the pool "
            "managers in a `finally`, where the program ends"
        )
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            "shutdown_on_signals was called in another thread, and Python handles signals only "
            "in the main thread: call it there, before other threads are started"
        )


def _loop_of(pools: Sequence[Drainable | AsyncDrainable]) -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        if not any(map(_is_async, pools)):
            return None
    raise WrongEventLoopError(
        "shutdown_on_signals was given an async pool manager, which is drained in its event "
        "loop, but no event loop is running here: call it in the coroutine that asyncio.run() "
        "runs"
    )


def _is_async(pool: Drainable | AsyncDrainable) -> TypeGuard[AsyncDrainable]:
    return iscoroutinefunction(pool.drain)


def _handlers_of(numbers: Sequence[int]) -> dict[int, _Handler | None]:
    """Return the present handler of each signal; None: no handler, so the program would end."""
    if not numbers:
        raise ConfigurationError("`signals` is empty: leave it out for SIGTERM and SIGINT")
    found: dict[int, _Handler | None] = {}
    for number in numbers:
        try:
            name = signal.Signals(number).name
        except ValueError:
            msg = f"{number!r} is not the number of a signal: signal.SIGTERM is one"
            raise ConfigurationError(msg) from None
        if name in {"SIGKILL", "SIGSTOP"}:
            raise ConfigurationError(f"{name} cannot be caught by any program")
        handler: Any = signal.getsignal(number)
        if handler is signal.SIG_IGN:
            log.info("%s is ignored and stays ignored", name, extra=about("signal_ignored"))
            continue
        if handler is None:
            raise ConfigurationError(
                f"{name} has a handler that was not installed by Python, and cannot be called "
                "later: remove it first, or leave this signal out of `signals`"
            )
        if handler in {signal.SIG_DFL, signal.default_int_handler}:
            found[number] = None
        else:
            _check_handler(name, handler)
            found[number] = handler
    return found


def _check_handler(name: str, handler: _Handler) -> None:
    inner: Any = handler
    while isinstance(inner, partial):
        inner = inner.func
    owner = getattr(inner, "__self__", None)
    module = getattr(inner, "__module__", None) or type(owner).__module__
    if module in {"asyncio.unix_events", "uvloop.loop"}:
        raise ConfigurationError(
            f"{name} has a handler that was added to the event loop, which nobody else can call: "
            "install it with signal.signal() instead of loop.add_signal_handler(). If it belongs "
            "to a server, leave the signals to the server, and drain where the server ends"
        )
    server = module.partition(".")[0]
    if server in _SERVERS:
        raise ConfigurationError(
            f"{name} is handled by {server}, which has to stop accepting requests before anything "
            "is drained: leave the signals to it, and drain at the end of the application's "
            "lifespan or of the worker, as hasql.contrib does"
        )


class _Shutdown:
    """The shutdown that one call has set up: it receives signals, drains, and ends the program."""

    def __init__(
        self,
        pools: Sequence[Drainable | AsyncDrainable],
        timeout: float,
        loop: asyncio.AbstractEventLoop | None,
        found: dict[int, _Handler | None],
    ) -> None:
        self._pools = pools
        self._timeout = timeout
        self._loop = loop
        self._found = found
        self._process = os.getpid()
        self._main_thread: int = original("_thread", "get_ident")()
        #: The first signal; then whether all managers are drained, and whether `_end` has run.
        self._received: int | None = None
        self._drained = self._ended = False
        #: The number of managers that are not drained yet.
        self._left = len(pools)
        self._lock = threading.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. This runs in the main thread, between any two of its steps.

        The main thread may hold any lock at that moment. So this method takes none, and does not
        log either, because a log handler has a lock.
        """
        if os.getpid() != self._process:
            self._pass_on(number, frame)
            return
        if self._received is None:
            self._received = number
            loop = self._running_loop()
            if loop is not None:
                loop.call_soon_threadsafe(self._begin_in_loop)
            self._watch_for_second()
            _thread.start_new_thread(self._begin_in_threads, (loop is not None,))
        elif self._drained and not self._ended:
            self._end(frame)
        else:
            os._exit(128 + number)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Do in a forked child, which has managers of its own, what the signal did before."""
        handler = self._found[number]
        if handler is not None:
            handler(number, frame)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _running_loop(self) -> asyncio.AbstractEventLoop | None:
        return self._loop if self._loop is not None and self._loop.is_running() else None

    def _watch_for_second(self) -> None:
        """Notice a second signal even if the main thread waits for a lock by then.

        Python checks for signals before it waits for a lock. A signal that arrives between that
        check and the wait does not wake the main thread, and its handler does not run. So a thread
        reads signal numbers from the wakeup pipe.
        """
        read, write = os.pipe()
        os.set_blocking(write, False)
        others = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        if others == -1:
            # A real thread of the system, even under gevent, because it blocks.
            original("_thread", "start_new_thread")(self._exit_on_second, (read,))
            # A forked child must not write its signals to this process's pipe.
            os.register_at_fork(after_in_child=partial(_write_no_more_to, write))
        else:  # the wakeup descriptor of an event loop, which the signal wakes anyway
            signal.set_wakeup_fd(others)

    def _exit_on_second(self, read: int) -> None:
        while not self._drained:
            number = os.read(read, 1)[0]
            if number in self._found and not self._drained:
                os._exit(128 + number)

    # Draining

    def _begin_in_threads(self, in_loop: bool) -> None:  # noqa: FBT001  # a thread's argument
        assert self._received is not None  # noqa: S101  # a signal has led here
        name = signal.Signals(self._received).name
        extra = about("draining")
        log.info("%s: leases in use have %g s to end", name, self._timeout, extra=extra)
        for pool in self._pools:
            if not _is_async(pool):
                # Not a daemon, so that the interpreter waits for it if the main thread ends.
                threading.Thread(target=self._drain, args=(pool,), name="hasql shutdown").start()
            elif not in_loop:
                log.error(
                    "%r is not drained: its event loop is no longer running",
                    pool,
                    extra=about("not_drained"),
                )
                self._count_down()

    def _drain(self, pool: Drainable) -> None:
        try:
            pool.drain(self._timeout)
        except Exception:
            log.exception("%r was not drained", pool, extra=about("not_drained"))
        finally:
            self._count_down()

    def _begin_in_loop(self) -> None:
        loop = asyncio.get_running_loop()
        for pool in self._pools:
            if _is_async(pool):
                self._tasks.append(loop.create_task(self._drain_in_loop(pool)))

    async def _drain_in_loop(self, pool: AsyncDrainable) -> None:
        try:
            await pool.drain(self._timeout)
        except Exception:
            log.exception("%r was not drained", pool, extra=about("not_drained"))
        # Not reached if this task was cancelled: then the loop, and so the program, ends anyway.
        self._count_down()

    def _count_down(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        self._drained = True
        if (loop := self._running_loop()) is not None:
            loop.call_soon_threadsafe(self._end)
            return
        if not threading.main_thread().is_alive() and _others_end():
            return  # the program ends by itself when those threads have ended
        # A real thread of the system sends the signal: under gevent the present one is a greenlet
        # in the main thread, and would handle the signal in itself. The present one stays alive
        # meanwhile, because a gevent hub with nothing left to do raises an error.
        original("_thread", "start_new_thread")(self._tell_main_thread, ())
        never = threading.Event()
        while not self._ended:
            never.wait(_ASKED_AGAIN)

    def _tell_main_thread(self) -> None:
        assert self._received is not None  # noqa: S101  # a signal has led here
        sleep = original("time", "sleep")
        while not self._ended:  # see `_watch_for_second`
            signal.pthread_kill(self._main_thread, self._received)
            sleep(_ASKED_AGAIN)

    # The end

    def _end(self, frame: FrameType | None = None) -> None:
        """End the program as the first signal would have ended it, in the main thread."""
        if self._ended:
            return  # another signal came first, and has already ended it
        self._ended = True
        number = self._received
        assert number is not None  # noqa: S101  # a signal has led here
        handler = self._found[number]
        if handler is not None:
            handler(number, frame)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(0)


def _write_no_more_to(write: int) -> None:
    others = signal.set_wakeup_fd(-1)
    if others != write:
        signal.set_wakeup_fd(others)


def _others_end() -> bool:
    """Tell whether all other threads that Python would wait for end soon."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(_OTHERS_END)
            if thread.is_alive():
                return False
    return True
