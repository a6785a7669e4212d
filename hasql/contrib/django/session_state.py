"""The session state that Django sets for each alias; undoes all other changes of the session."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from psycopg import sql

if TYPE_CHECKING:
    from psycopg import Connection

    from hasql._adapters.psycopg.thread_connection import ThreadConnection

__all__ = ("SessionState", "reset_session")

#: The role that was set on each connection; the server does not report which one is in force.
_roles: WeakKeyDictionary[Connection[Any], str | None] = WeakKeyDictionary()

# Restores the state of a new session: DISCARD ALL, except that prepared statements and their plans
# are worth keeping.
_UNDO = sql.SQL(
    "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; UNLISTEN *;"
    " SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
)


class SessionState(NamedTuple):
    """The session state that an alias asks for."""

    #: None means the server's own time zone.
    time_zone: str | None
    #: The role to assume; None means the role of the login.
    role: str | None

    def set_on(self, connection: Connection[Any]) -> bool:
        """Set what differs, in one round trip or none; tell whether a round trip was made."""
        statements = []
        if self.time_zone not in {None, connection.info.parameter_status("TimeZone")}:
            statements.append(sql.SQL("SET TimeZone = {}").format(self.time_zone))
        if _roles.get(connection) != self.role:
            statements.append(_role_statement(self.role))
        if statements:
            connection.execute(sql.SQL("; ").join(statements))
            _roles[connection] = self.role
        return bool(statements)


def reset_session(connection: ThreadConnection) -> None:
    """Undo what a request has done to its session, except for time zone and assumed role.

    The next request most likely uses the same alias and needs the same two, so keeping them saves
    it a round trip. A request that needs other ones sets them.
    """
    connection.restore_handlers()  # first, so that no handler is called for what follows
    connection.autocommit = True
    time_zone = connection.info.parameter_status("TimeZone")
    connection.execute(_undo_statement(time_zone, _roles.get(connection)))
    connection.forget_notifications()


@lru_cache
def _undo_statement(time_zone: str | None, role: str | None) -> bytes:
    statements = [_UNDO, sql.SQL("SET TimeZone = {}").format(time_zone)]
    if role is not None:
        statements.append(_role_statement(role))
    return sql.SQL("; ").join(statements).as_bytes(None)


def _role_statement(role: str | None) -> sql.Composed:
    if role is None:
        return sql.Composed([sql.SQL("RESET ROLE")])
    return sql.SQL("SET ROLE {}").format(role)
