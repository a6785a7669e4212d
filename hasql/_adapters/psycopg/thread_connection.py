"""A synchronous psycopg 3 connection that any thread can end, and whose loss is noticed early."""

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
from hasql._adapters.psycopg.handlers import HandlerResetMixin
from hasql._adapters.psycopg.liveness import LivenessMixin, note_notice

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.abc import PQGen

__all__ = ("ThreadConnection",)

_T = TypeVar("_T")
_IN_TRANSACTION = frozenset({TransactionStatus.INTRANS, TransactionStatus.INERROR})
#: Seconds that another thread has to leave a connection once its socket was shut down.
_LEAVE_TIMEOUT = 1.0


class ThreadConnection(LivenessMixin, HandlerResetMixin, Connection[Any]):
    """A connection that any thread can end, and that is found dead without asking the server.

    psycopg's own connections free libpq's memory as soon as one thread closes them, even if another
    thread still runs a statement there. Then memory is corrupted, and the other thread reads from
    whatever file has got the number of the socket. Here the last thread to leave frees the memory.
    """

    #: Whether the connection was aborted, or the server has said that it ends the connection. This
    #: is not `closed`: as long as psycopg takes the connection for open, ending its transaction
    #: raises an error.
    lost = False
    #: Whether it was taken out of the pool since it was last put there.
    taken = True
    #: Whether it was put into the pool as a new connection, and so has a place there.
    pooled = False

    #: `wait` of the application's class. To look it up by super(), and to pass on arguments that
    #: psycopg mostly leaves out, would cost each statement a fifth of a microsecond.
    inherited_wait: ClassVar[Callable[..., Any]] = Connection.wait

    #: Ends the connection for the thread that uses it; None: it was already lost when it was made.
    switch: KillSwitch | None = None
    #: Whether closing was left to the thread that uses it, which must free it when it leaves.
    is_closing = False
    #: How many calls of `wait` the thread that holds `_use` is in.
    _at_work = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.make_endable()

    def make_endable(self) -> None:
        """Set up what any thread needs to end it."""
        # psycopg's own lock would not do: it is not held during a COPY, but it is held by a stream
        # that is no longer read.
        self._use = RLock()
        self.lost = self.closed
        if not self.lost:
            self.switch = KillSwitch(self.fileno())
            cut_off_in_children(self, Connection.fileno)
        # The handler has a weak reference, so that it does not keep the connection alive.
        self.add_notice_handler(partial(note_notice, ref(self)))
        self.keep_handlers()

    def wait(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """Wait for the operation that is running. psycopg calls this for each statement."""
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
            if self.is_closing:
                self._free()
        self._alive_at = monotonic()
        return result

    def is_alive(self) -> bool:
        """Tell whether it can be used. False also if a thread that gave it back still uses it."""
        if not self._use.acquire(blocking=False):
            return False
        try:
            return super().is_alive()
        finally:
            self._use.release()

    def abort(self) -> None:
        """Shut its socket down, whichever thread uses it; that thread closes the connection."""
        self.lost = True
        if self.switch is not None:
            self.switch.shut_down()

    def close(self) -> None:
        """Close it as psycopg does.

        If another thread uses it, that use is ended, and the other thread closes it as it leaves.
        """
        self.lost = True
        self.is_closing = True  # first, because the other thread may be about to leave
        if not self._free():
            self.abort()
            self._free(_LEAVE_TIMEOUT)

    def close_last(self) -> None:
        """Close it once no other thread uses it, however long that takes."""
        self.is_closing = True
        self._free(-1)

    def _free(self, seconds: float = 0.0) -> bool:
        """Free libpq's memory; return False if a thread is still at work there after `seconds`."""
        if not self._use.acquire(timeout=seconds):
            return False
        try:
            if self._at_work:  # it is this thread, now in a signal or notice handler
                return False
            self.is_closing = False
            super().close()
            self.pgconn.finish()  # psycopg leaves a broken one to garbage collection
            if self.switch is not None:
                self.switch.close()
        finally:
            self._use.release()
        return True

    def roll_back_or_close(self) -> None:
        """Roll an open transaction back; if that is not possible, close the connection."""
        if not self.lost and self.pgconn.transaction_status in _IN_TRANSACTION:
            self.rollback()
            return
        self.abort()
        self.close()

    def check_by(self, check: Callable[[Any], None]) -> None:
        """Run the application's check on it; close it if the check fails."""
        try:
            check(self)
        except BaseException:
            self.close()
            raise
