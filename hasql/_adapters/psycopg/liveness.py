"""What can be seen of a psycopg connection without asking its server, for tasks and threads."""

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

__all__ = ("LivenessMixin", "ends_connection", "ignore_drop", "note_notice")


#: Seconds for which a connection that was alive counts as alive without another look: about as long
#: as one turn of a busy event loop.
_ALIVE_FOR = 0.001
#: The SQLSTATEs of a shutdown, and of the crash of another process of the server.
_ENDS = frozenset({"57P01", "57P02"})


class LivenessMixin:
    """Mixed into a connection of hasql's, before psycopg's class."""

    #: Whether the connection was aborted, or the server has said that it ends the connection.
    lost: bool
    pgconn: PGconn
    #: When the connection was last known to be alive, in seconds of time.monotonic().
    _alive_at = float("-inf")

    def check_idle(self, hook: str) -> None:
        """Raise ProgrammingError if the user's hook has left a transaction open."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            raise ProgrammingError(
                f"the {hook} function left a transaction open; have it commit or roll back"
            )

    @property
    def alive_at(self) -> float:
        """When the connection was last known to be alive, in seconds of time.monotonic()."""
        return self._alive_at

    def was_just_alive(self) -> bool:
        """Tell whether it was alive within the last millisecond. This costs no system call."""
        return not self.lost and monotonic() - self._alive_at < _ALIVE_FOR

    def is_alive(self) -> bool:
        """Tell whether an idle connection can be used, as far as can be seen without a query.

        libpq reads the data that has come, without waiting. Asking the kernel whether there is any
        would release the interpreter's lock, and a thread among many waits to get that back.
        """
        if self.lost:
            return False
        try:
            self.pgconn.consume_input()
            self.pgconn.is_busy()  # makes libpq parse it: it may say that the server ends it
        except Error:
            self.lost = True
        self._alive_at = monotonic()
        return not self.lost


def ignore_drop(identity: int, revive: Callable[[], Any], /) -> bool:
    """Stand in for the function that is told of dropped connections, until there is one."""
    del identity, revive
    return False


def note_notice(connection_ref: ref[LivenessMixin], notice: Diagnostic) -> None:
    """Mark the connection as lost if a notice says that the server ends it."""
    connection = connection_ref()
    if connection is not None and ends_connection(notice, connection.pgconn):
        connection.lost = True


def ends_connection(notice: Diagnostic, pgconn: PGconn) -> bool:
    """Tell whether a notice says that the server ends the connection.

    The server closes the socket only milliseconds later. A server that crashes or stops at once
    says so in a warning. A function of the application's could raise such a warning, but only
    during a statement; so a warning counts only while the connection is idle.
    """
    if notice.severity_nonlocalized in {"FATAL", "PANIC"}:
        return True
    idle = pgconn.transaction_status == TransactionStatus.IDLE
    return idle and notice.sqlstate in _ENDS
