"""What one thread waits for and another one ends, whatever interrupts either of them.

A signal's handler may raise anywhere in the main thread, also where a future of Python's has taken
its lock and does not give it back yet: that lock is taken in code of Python's own. Then whoever
waits for that future waits for ever, whatever limit it has given, and so does whoever ends it.
"""

import _thread
from concurrent.futures import CancelledError, InvalidStateError
from typing import Any, Final, Generic, TypeAlias, TypeVar

__all__ = ("ThreadWaiter",)

_T = TypeVar("_T")
#: A result, or an error; each of them an object of its own.
_Outcome: TypeAlias = tuple[Any, BaseException | None]

_CANCELLED: Final = CancelledError()


class ThreadWaiter(Generic[_T]):
    """What a thread waits for; any other may end it, and a signal's handler in the same one."""

    __slots__ = ("_outcome", "_turn")

    def __init__(self) -> None:
        #: Its outcome by a key, once it has ended. Two threads may end it at a time: one call sets
        #: what is not there, with the GIL and without, and nothing comes in between.
        self._outcome: dict[None, _Outcome] = {}
        # Held until it has ended. Looked up each time: where gevent is at work by then, its own
        # lets other greenlets run.
        self._turn = _thread.allocate_lock()
        self._turn.acquire()

    def ended_within(self, seconds: float) -> bool:
        """Wait until it has ended, for so many seconds at most; return whether it has.

        For one thread alone. Raises what a signal's handler raises meanwhile.
        """
        if self._outcome:
            return True
        # It is not given back: who ends it, and is interrupted, may let it go once more.
        return self._turn.acquire(timeout=max(0.0, seconds)) or bool(self._outcome)

    def done(self) -> bool:
        """Tell whether it has ended."""
        return bool(self._outcome)

    def cancelled(self) -> bool:
        """Tell whether it was given up."""
        outcome = self._outcome.get(None)
        return outcome is not None and outcome[1] is _CANCELLED

    def exception(self) -> BaseException | None:
        """Return the error that it has ended with.

        Raises CancelledError if it was given up, InvalidStateError if it has not ended.
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
            error = None  # whose traceback leads here
            del self  # as this has it, too

    def set_result(self, result: _T, /) -> None:
        """End it with a result. What interrupts this leaves it as it was, or ended.

        Raises InvalidStateError if it has ended already.
        """
        if not self._end((result, None)):
            raise InvalidStateError("it has ended already")

    def set_exception(self, error: BaseException, /) -> None:
        """End it with an error, as `set_result` does with a result."""
        if not self._end((None, error)):
            raise InvalidStateError("it has ended already")

    def cancel(self) -> bool:
        """Give it up; return False if it has ended otherwise."""
        return self._end((None, _CANCELLED)) or self.cancelled()

    def _end(self, outcome: _Outcome) -> bool:
        """End it, unless it has; return whether this has."""
        if self._outcome:
            return False
        try:
            if self._outcome.setdefault(None, outcome) is not outcome:
                return False
            self._turn.release()
        except BaseException:
            # Interrupted: it is over all the same if its outcome is set, and who waits is woken.
            if self._outcome.get(None) is outcome and self._turn.locked():
                self._turn.release()
            raise
        return True
