"""A synchronous connection of psycopg 3 that any thread can end, and that is found dead early."""

from __future__ import annotations

from functools import partial
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import ref

from psycopg import Connection
from psycopg.pq import TransactionStatus

from hasql._adapters.fork_guard import cut_off_in_children
from hasql._adapters.kill_switch import KillSwitch
from hasql._adapters.psycopg.handlers import KeepsHandlers
from hasql._adapters.psycopg.idle_look import LooksWhileIdle, note_notice

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.abc import PQGen

__all__ = ("ThreadConnection",)

_T = TypeVar("_T")
_IN_TRANSACTION = frozenset({TransactionStatus.INTRANS, TransactionStatus.INERROR})
#: Seconds that a thread has to leave a connection whose socket was shut down.
_LAST_WORDS = 1.0


class ThreadConnection(LooksWhileIdle, KeepsHandlers, Connection[Any]):
    """A connection that any thread can end, and that is found dead without asking the server.

    psycopg's own frees what is libpq's as soon as one thread closes it: also what another thread
    works with, whose statement runs. Then memory is corrupted, and the other thread reads from
    whatever has got the number of the socket. Here it is freed by whoever leaves last.
    """

    #: Whether it was aborted, or the server has said that it ends it. This is not `closed`: as long
    #: as psycopg takes the connection for open, ending its transaction raises an error.
    lost = False
    #: Whether it was taken out of the pool since it was put there last.
    taken = True
    #: Whether it is one of the pool's.
    pooled = False

    #: How the application's class waits. Looking for it by super(), and handing on arguments that
    #: psycopg mostly leaves out, would cost each statement a fifth of a microsecond.
    inherited_wait: ClassVar[Callable[..., Any]] = Connection.wait

    #: Ends it for whoever uses it; None: it was lost as it was made.
    switch: KillSwitch | None = None
    #: Whether whoever leaves it is to free it.
    is_left_open = False
    #: How often the thread that has the right to use libpq is at work there.
    _at_work = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.be_endable()

    def be_endable(self) -> None:
        """Begin to be one that any thread can end."""
        # psycopg's own lock is not held during a COPY, and is by a stream that nobody reads on.
        self._use = RLock()
        self.lost = self.closed
        if not self.lost:
            self.switch = KillSwitch(self.fileno())
            cut_off_in_children(self, Connection.fileno)
        # The handler has a weak reference, so that the connection is freed when nobody needs it.
        self.add_notice_handler(partial(note_notice, ref(self)))
        self.keep_handlers()

    def wait(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """Wait for what is running. psycopg calls this for each statement."""
        try:
            with self._use:
                self._at_work += 1
                try:
                    result: _T = (
                        self.inherited_wait(gen, *args, **kwargs)
                        if args or kwargs
                        else self.inherited_wait(gen)
                    )
                finally:
                    self._at_work -= 1
        finally:
            if self.is_left_open:
                self._free()
        self._alive_at = monotonic()
        return result

    def is_alive(self) -> bool:
        """Tell whether it can be used; not if a thread still does that has given it back."""
        if not self._use.acquire(blocking=False):
            return False
        try:
            return super().is_alive()
        finally:
            self._use.release()

    def abort(self) -> None:
        """Shut its socket down, whichever thread uses it; that one closes it."""
        self.lost = True
        if self.switch is not None:
            self.switch.shut_down()

    def close(self) -> None:
        """Close it, as psycopg does; if another thread uses it, end that and leave it the rest."""
        self.lost = True
        self.is_left_open = True  # first, as the other thread may be about to leave
        if not self._free():
            self.abort()
            self._free(_LAST_WORDS)

    def close_last(self) -> None:
        """Close it once no other thread uses it, however long that takes."""
        self.is_left_open = True
        self._free(-1)

    def _free(self, seconds: float = 0.0) -> bool:
        """Free what is libpq's, unless a thread is at work there for so many seconds more."""
        if not self._use.acquire(timeout=seconds):
            return False
        try:
            if self._at_work:  # this very thread: in a handler of a signal, or of notices
                return False
            self.is_left_open = False
            super().close()
            self.pgconn.finish()  # psycopg leaves a broken one to the collection of garbage
            if self.switch is not None:
                self.switch.close()
        finally:
            self._use.release()
        return True

    def roll_back_or_close(self) -> None:
        """Roll an open transaction back. Where that is not possible, close the connection."""
        if not self.lost and self.pgconn.transaction_status in _IN_TRANSACTION:
            self.rollback()
            return
        self.abort()
        self.close()

    def check_by(self, check: Callable[[Any], None]) -> None:
        """Have the application check it; one that fails is of no use to anybody."""
        try:
            check(self)
        except BaseException:
            self.close()
            raise
