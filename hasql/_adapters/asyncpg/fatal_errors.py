"""The error that a server sends before it ends an idle connection, which asyncpg drops."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hasql._adapters.asyncpg.connection import transport_of
from hasql.driver import Failure
from hasql.driver.failure import SessionLimitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hasql._adapters.asyncpg.connection import Connection, RawConnection

__all__ = ("FatalErrorReader", "report_end")

_ERROR = ord("E")
#: The severity, code and message of an error with which a server, or a pooler, ends a connection.
_FATAL = re.compile(rb"\0VFATAL\0C([^\0]*)\0M([^\0]*)")
#: How many bytes are searched for them: the fields that come before them are short.
_WITHIN = 200


class FatalErrorReader:
    """Stands between a connection's transport and asyncpg, and reads what the server sends.

    asyncpg expects no error while no statement runs, and drops it. The socket closes milliseconds
    later, and until then any use of the connection would fail. So the connection is terminated at
    once. asyncpg still gets everything that the server sends.
    """

    def __init__(self, connection: RawConnection) -> None:
        self._terminate: Callable[[], object] = connection.terminate
        transport: Any = transport_of(connection)
        protocol = transport.get_protocol()
        #: Whether the server ended the session because of a time limit on it.
        self.of_limit = False
        self.connection_made: Any = protocol.connection_made
        self.connection_lost: Any = protocol.connection_lost
        self.eof_received: Any = protocol.eof_received
        self.pause_writing: Any = protocol.pause_writing
        self.resume_writing: Any = protocol.resume_writing
        self._take: Callable[[Any], None] = protocol.data_received
        transport.set_protocol(self)

    def data_received(self, data: Any) -> None:
        """Pass data on to asyncpg; if it begins with a fatal error, terminate the connection."""
        said = _FATAL.search(data, 0, _WITHIN) if data[0] == _ERROR else None
        if said is not None:
            code, message = (each.decode("utf-8", "replace") for each in said.groups())
            self.of_limit = Failure.of_sqlstate(code, message) is Failure.LIMIT
        self._take(data)
        if said is not None:
            self._terminate()


def report_end(
    connection: RawConnection,
    report: Callable[[Connection, BaseException], None],
    ended: Callable[[RawConnection], None],
) -> None:
    """Call `ended` when a connection ends; before it `report`, if a limit ended it while leased."""
    fatal_errors = FatalErrorReader(connection)

    def tell(lent: Any) -> None:  # while the connection is leased, asyncpg passes its proxy
        if fatal_errors.of_limit and lent is not connection:
            report(lent, SessionLimitError())
        ended(connection)

    connection.add_termination_listener(tell)
