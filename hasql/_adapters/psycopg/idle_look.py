"""What is seen of a psycopg connection without asking its server, by tasks and threads alike."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from psycopg import Error, ProgrammingError
from psycopg.pq import TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from weakref import ref

    from psycopg.errors import Diagnostic
    from psycopg.pq.abc import PGconn

__all__ = ("LooksWhileIdle", "is_the_end", "note_notice", "nothing_is_lent")


#: Seconds for which a connection that was alive counts as alive without asking the kernel: as long
#: as a busy event loop takes for a turn.
_ALIVE_FOR = 0.001
#: Of a shutdown, and of the crash of another process of the server.
_ENDS = frozenset({"57P01", "57P02"})


class LooksWhileIdle:
    """Mixed into a connection of hasql's, before psycopg's class."""

    #: Whether it was aborted, or the server has said that it ends it.
    lost: bool
    pgconn: PGconn
    #: When it was last known to be alive, in seconds of time.monotonic().
    _alive_at = float("-inf")

    def check_idle(self, hook: str) -> None:
        """Raise if a hook of the user's has left a transaction open."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            raise ProgrammingError(f"the {hook} function has left a transaction open")

    @property
    def alive_at(self) -> float:
        """When it was last known to be alive, in seconds of time.monotonic()."""
        return self._alive_at

    def was_just_alive(self) -> bool:
        """Tell whether it was alive within the last millisecond, which costs no system call."""
        return not self.lost and monotonic() - self._alive_at < _ALIVE_FOR

    def is_alive(self) -> bool:
        """Tell whether an idle connection can be used, as far as can be seen without a query.

        libpq reads what has come, without waiting. Asking the kernel whether anything has would let
        go of the interpreter's lock, and a thread among many waits for that anew.
        """
        if self.lost:
            return False
        try:
            self.pgconn.consume_input()
            self.pgconn.is_busy()  # makes libpq parse it: it may be why the server ends it
        except Error:
            self.lost = True
        self._alive_at = monotonic()
        return not self.lost


def nothing_is_lent(identity: int, revive: Callable[[], Any], /) -> bool:
    """Stand in for who is told of connections that are dropped."""
    del identity, revive
    return False


def note_notice(connection_ref: ref[LooksWhileIdle], notice: Diagnostic) -> None:
    """Take note of what a server says by itself: it may be that it ends the connection."""
    connection = connection_ref()
    if connection is not None and is_the_end(notice, connection.pgconn):
        connection.lost = True


def is_the_end(notice: Diagnostic, pgconn: PGconn) -> bool:
    """Tell whether a server says that it ends the connection; its socket closes milliseconds later.

    One that crashes or stops at once says so as a warning. A function of the application's could
    raise the like, but only in a statement.
    """
    if notice.severity_nonlocalized in {"FATAL", "PANIC"}:
        return True
    idle = pgconn.transaction_status == TransactionStatus.IDLE
    return idle and notice.sqlstate in _ENDS
