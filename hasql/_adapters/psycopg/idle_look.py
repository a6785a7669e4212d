"""What is seen of a psycopg connection without asking its server, by tasks and threads alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import Error, ProgrammingError
from psycopg.pq import TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from weakref import ref

    from psycopg.errors import Diagnostic
    from psycopg.pq.abc import PGconn

__all__ = ("LooksWhileIdle", "note_fatal_notice")


class LooksWhileIdle:
    """Mixed into a connection of hasql's, before psycopg's class."""

    #: Whether it was aborted, or the server has said that it ends it.
    lost: bool
    pgconn: PGconn
    #: Waits so many milliseconds until its socket can be read; true if it can.
    _readable: Callable[[int], object]

    def check_idle(self, hook: str) -> None:
        """Raise if a hook of the user's has left a transaction open."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            raise ProgrammingError(f"the {hook} function has left a transaction open")

    def _read_pending(self) -> bool:
        """Read what the server has sent, which may be why it ends the connection."""
        try:
            while not self.lost and self._readable(0):
                self.pgconn.consume_input()
                self.pgconn.is_busy()  # makes libpq parse it
        except Error:
            self.lost = True
        return not self.lost


def note_fatal_notice(connection_ref: ref[LooksWhileIdle], notice: Diagnostic) -> None:
    """Take note that a server says that it ends a connection."""
    connection = connection_ref()
    if connection is not None and notice.severity_nonlocalized in {"FATAL", "PANIC"}:
        connection.lost = True  # the socket closes some milliseconds later
