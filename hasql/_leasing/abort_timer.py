"""The timer that breaks a thread's connection if what is done on it takes too long."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import inf

from hasql._leasing.options import InLoop

__all__ = ("AbortTimer",)


class AbortTimer:
    """One timer for all limits, because nearly everything is done in time.

    A timer for each limit would wake the event loop each time, and would keep the connection alive
    until the time is over.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        guard: AbstractContextManager[object],
        in_loop: InLoop,
    ) -> None:
        self._clock = clock
        self._guard = guard
        self._in_loop = in_loop
        #: For each limit, by a token of its own: when it is due, by the clock, and the call that
        #: aborts its connection then.
        self._limits: dict[object, tuple[float, Callable[[], object]]] = {}
        #: When the event loop looks at the limits next; written by the loop alone.
        self._next_look = inf
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def limit(self, seconds: float, abort: Callable[[], object]) -> Iterator[None]:
        """Call `abort`, in the event loop, if the block takes longer than so many seconds."""
        token, due = object(), self._clock() + seconds
        try:
            with self._guard:
                self._limits[token] = due, abort
            if due < self._next_look:
                self._in_loop(self._look)
            yield
        finally:
            # A look aborts under the guard, too. So no abort comes after this, when the connection
            # may be in use again.
            with self._guard:
                self._limits.pop(token, None)

    def _look(self) -> None:
        with self._guard:
            now = self._clock()
            for token, (due, abort) in tuple(self._limits.items()):
                if due <= now:
                    del self._limits[token]
                    abort()
            self._next_look = min((due for due, _ in self._limits.values()), default=inf)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._next_look < inf:
            wait = self._next_look - now
            self._timer = asyncio.get_running_loop().call_later(wait, self._look)
