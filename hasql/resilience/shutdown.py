"""The shutdown of a program by signals: work in flight ends well, and then the program."""

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

#: Who handles signals and has to stop accepting before anything is drained.
_SERVERS: Final = frozenset({"aiohttp", "daphne", "granian", "gunicorn", "hypercorn", "uvicorn"})
#: Seconds after which the main thread is told again that all is drained.
_ASKED_AGAIN: Final = 0.2
#: Seconds for a thread that sees that its manager is closed, where the main thread has ended.
_OTHERS_END: Final = 1.0


class Drainable(Protocol):
    """What is drained by the thread that calls: a pool manager of `hasql.sync`."""

    def drain(self, timeout: float = ...) -> object:
        """Let work in flight end, and close."""


class AsyncDrainable(Protocol):
    """What is drained in its event loop: any other pool manager."""

    def drain(self, timeout: float = ...) -> Awaitable[object]:
        """Let work in flight end, and close."""


def shutdown_on_signals(
    pool: Drainable | AsyncDrainable,
    *more: Drainable | AsyncDrainable,
    signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT),
    timeout: float = 30.0,
) -> None:
    """Have the first of these signals drain the pool managers, and then end the program.

    For programs without a server: a web server has handlers of its own, and drains last.

    Meanwhile nothing is cancelled, not by `asyncio.run` either. Then the handler is called that
    the signal had before. Where it had none the program ends: after SIGINT by KeyboardInterrupt,
    else by SystemExit with exit code 0, either of them raised in the main thread, or in the event
    loop. A second signal ends the program at once, with 128 plus its number and without any
    clean-up. A signal that the program was started to ignore, by ``nohup`` for one, stays ignored.

    Call it once, in the main thread, and with all managers of the program; if one of them is async,
    in the coroutine that uses it.

    Args:
        pool: A pool manager, for tasks or for threads, started or not.
        more: Others, of either kind. All are drained at the same time.
        signals: The signals.
        timeout: Seconds that work in flight has to end; then it is broken, and the log says which.

    Raises:
        ConfigurationError: This is not the main thread, or not a system with such signals, as
            Windows; or a signal cannot be caught, or has a handler that could not be called later:
            that of `loop.add_signal_handler`, or of a web server.
        WrongEventLoopError: A manager is async, and no event loop runs here.
        TypeError: What is to be drained is no pool manager.
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
            "shutdown_on_signals needs the signals of Unix, and this is Windows: drain the pool "
            "managers in a `finally`, where the program ends"
        )
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            "shutdown_on_signals was called in another thread, and Python has signals handled by "
            "the main thread alone: call it there, before other threads are started"
        )


def _loop_of(pools: Sequence[Drainable | AsyncDrainable]) -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        if not any(map(_is_async, pools)):
            return None
    raise WrongEventLoopError(
        "shutdown_on_signals was given an async pool manager, which is drained in its event loop, "
        "and none runs here: call it in the coroutine that asyncio.run() runs"
    )


def _is_async(pool: Drainable | AsyncDrainable) -> TypeGuard[AsyncDrainable]:
    return iscoroutinefunction(pool.drain)


def _handlers_of(numbers: Sequence[int]) -> dict[int, _Handler | None]:
    """Return what handles each signal now; None: nothing does, and the program would end."""
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
            log.info("%s is ignored, and stays so", name, extra=about("signal_ignored"))
            continue
        if handler is None:
            raise ConfigurationError(
                f"{name} has a handler that was not installed by Python, and cannot be called "
                "later: take it away first, or leave this signal out of `signals`"
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
            f"{name} has a handler of the event loop's, which nobody else can call: install it "
            "with signal.signal() instead of loop.add_signal_handler(). If it is a server's, leave "
            "the signals to that, and drain where the server ends"
        )
    server = module.partition(".")[0]
    if server in _SERVERS:
        raise ConfigurationError(
            f"{name} is handled by {server}, which has to stop accepting before anything is "
            "drained: leave the signals to it, and drain at the end of the application's lifespan "
            "or of the worker, as hasql.contrib does"
        )


class _Shutdown:
    """What one call has begun: it receives the signals, drains, and ends the program."""

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
        #: The first signal, and whether all that was to wait for it is drained.
        self._received: int | None = None
        self._drained = self._ended = False
        #: How many managers are not drained yet.
        self._left = len(pools)
        self._lock = threading.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Take a signal, in the main thread, between any two steps of what that does.

        It may hold any lock just now. So this takes none, which includes that of a log handler.
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
        """Do in a forked child, whose managers are its own, what a signal did before."""
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
        """Have a second signal seen even where the main thread waits for something by now.

        Python asks for signals before it waits for a lock, and what comes in between wakes nobody.
        """
        read, write = os.pipe()
        os.set_blocking(write, False)
        others = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        if others == -1:
            # A thread of the system's, also under gevent, as this one blocks.
            original("_thread", "start_new_thread")(self._exit_on_second, (read,))
            # The signals of a child are none of this process's.
            os.register_at_fork(after_in_child=partial(_write_no_more_to, write))
        else:  # an event loop's, which is woken by it
            signal.set_wakeup_fd(others)

    def _exit_on_second(self, read: int) -> None:
        while not self._drained:
            number = os.read(read, 1)[0]
            if number in self._found and not self._drained:
                os._exit(128 + number)

    # Draining

    def _begin_in_threads(self, in_loop: bool) -> None:  # noqa: FBT001  # a thread's argument
        assert self._received is not None  # noqa: S101  # that is why
        name = signal.Signals(self._received).name
        extra = about("draining")
        log.info("%s: what is in use has %g s to end", name, self._timeout, extra=extra)
        for pool in self._pools:
            if not _is_async(pool):
                # No daemon, so that a main thread which ends meanwhile waits for it.
                threading.Thread(target=self._drain, args=(pool,), name="hasql shutdown").start()
            elif not in_loop:
                log.error(
                    "%r is not drained: its event loop does not run any more",
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
        # Not if it was cancelled: the loop ends by itself then, and with it the program.
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
            return  # and with them the program, by itself
        # By a thread of the system's: under gevent this one is a greenlet in the main thread, and
        # would have the signal handled in itself. It stays, as a hub with nothing to do complains.
        original("_thread", "start_new_thread")(self._tell_main_thread, ())
        never = threading.Event()
        while not self._ended:
            never.wait(_ASKED_AGAIN)

    def _tell_main_thread(self) -> None:
        assert self._received is not None  # noqa: S101  # that is why
        sleep = original("time", "sleep")
        while not self._ended:  # see `_watch_for_second`
            signal.pthread_kill(self._main_thread, self._received)
            sleep(_ASKED_AGAIN)

    # The end

    def _end(self, frame: FrameType | None = None) -> None:
        """End as the first signal would have ended it, in the main thread."""
        if self._ended:
            return  # by one more signal, which came first
        self._ended = True
        number = self._received
        assert number is not None  # noqa: S101  # that is why
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
    """Tell whether all other threads end soon that Python would wait for."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(_OTHERS_END)
            if thread.is_alive():
                return False
    return True
