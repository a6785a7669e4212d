"""An outcome that one thread waits for and another sets, even if either of them is interrupted.

A signal handler may raise anywhere in the main thread, also where a future of Python's has taken
its lock and has not given it back yet, because Python code takes that lock. Then a thread that
waits for that future waits for ever, whatever limit it has given, and so does a thread that ends
it.
"""

import _thread
from concurrent.futures import CancelledError, InvalidStateError
from typing import Any, Final, Generic, TypeAlias, TypeVar

__all__ = ("ThreadWaiter",)

_T = TypeVar("_T")
#: A result, or an error. Each outcome is an object of its own.
_Outcome: TypeAlias = tuple[Any, BaseException | None]

_CANCELLED: Final = CancelledError()


class ThreadWaiter(Generic[_T]):
    """A thread waits for it; any other thread may end it, or a signal handler in the same one."""

    __slots__ = ("_lock", "_outcome")

    def __init__(self) -> None:
        #: Its outcome under a key, once it has ended. Two threads may end it at the same time: one
        #: call sets what is not there, with the GIL and without, and nothing comes in between.
        self._outcome: dict[None, _Outcome] = {}
        # Held until it has ended. Looked up each time: if gevent has been started by then, its own
        # lock lets other greenlets run.
        self._lock = _thread.allocate_lock()
        self._lock.acquire()

    def ended_within(self, seconds: float) -> bool:
        """Wait until it has ended, for at most so many seconds; return whether it has.

        Only one thread may wait. Raises whatever a signal handler raises meanwhile.
        """
        if self._outcome:
            return True
        # The lock is not given back: if a thread that ends it is interrupted, it may release it
        # once more.
        return self._lock.acquire(timeout=max(0.0, seconds)) or bool(self._outcome)

    def done(self) -> bool:
        """Tell whether it has ended."""
        return bool(self._outcome)

    def cancelled(self) -> bool:
        """Tell whether it was cancelled."""
        outcome = self._outcome.get(None)
        return outcome is not None and outcome[1] is _CANCELLED

    def exception(self) -> BaseException | None:
        """Return the error that it has ended with.

        Raises CancelledError if it was cancelled, InvalidStateError if it has not ended.
        """
        outcome = self._outcome.get(None)
        if outcome is None:
            raise InvalidStateError("it has not ended")
        if outcome[1] is _CANCELLED:
            raise CancelledError
        return outcome[1]

    def result(self) -> _T:
        """Return what it has ended with, or raise it. Raises what `exception` does."""
        try:
            if (error := self.exception()) is not None:
                raise error
            result: _T = self._outcome[None][0]
            return result
        finally:
            error = None  # its traceback leads to this frame
            del self  # it holds the error, too

    def set_result(self, result: _T, /) -> None:
        """End it with a result. If this is interrupted, it is as it was before, or has ended.

        Raises InvalidStateError if it has ended already.
        """
        if not self._end((result, None)):
            raise InvalidStateError("it has ended already")

    def set_exception(self, error: BaseException, /) -> None:
        """End it with an error, as `set_result` does with a result."""
        if not self._end((None, error)):
            raise InvalidStateError("it has ended already")

    def cancel(self) -> bool:
        """Cancel it; return False if it has already ended in another way."""
        return self._end((None, _CANCELLED)) or self.cancelled()

    def _end(self, outcome: _Outcome) -> bool:
        """End it unless it has ended; return whether this call has ended it."""
        if self._outcome:
            return False
        try:
            if self._outcome.setdefault(None, outcome) is not outcome:
                return False
            self._lock.release()
        except BaseException:
            # Interrupted: if its outcome is set, it has ended all the same, and the waiting thread
            # has to be woken.
            if self._outcome.get(None) is outcome and self._lock.locked():
                self._lock.release()
            raise
        return True
