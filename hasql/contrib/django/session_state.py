"""The state of a session that Django sets for each alias, and the undoing of all other."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from psycopg import sql

if TYPE_CHECKING:
    from psycopg import Connection

    from hasql._adapters.psycopg.thread_connection import ThreadConnection

__all__ = ("SessionState", "undo")

#: The role that was set on a connection, as the server does not tell which one is in force.
_roles: WeakKeyDictionary[Connection[Any], str | None] = WeakKeyDictionary()

# What a new session would have: DISCARD ALL, but for the plans, which are worth keeping.
_UNDO = sql.SQL(
    "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; UNLISTEN *;"
    " SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
)


class SessionState(NamedTuple):
    """What an alias wants of a session."""

    #: None: whatever the server has.
    time_zone: str | None
    #: What it assumes; None: that of the login.
    role: str | None

    def set_on(self, connection: Connection[Any]) -> bool:
        """Set what is not so yet, in one round trip or none; tell whether there was one."""
        statements = []
        if self.time_zone not in {None, connection.info.parameter_status("TimeZone")}:
            statements.append(sql.SQL("SET TimeZone = {}").format(self.time_zone))
        if _roles.get(connection) != self.role:
            statements.append(_role_statement(self.role))
        if statements:
            connection.execute(sql.SQL("; ").join(statements))
            _roles[connection] = self.role
        return bool(statements)


def undo(connection: ThreadConnection) -> None:
    """Undo what a request has done to its session, but for time zone and assumed role.

    Those are as the next request, in all likelihood of the same alias, wants them: it has no round
    trip to make. What it wants otherwise it sets.
    """
    connection.restore_handlers()  # first, so that none is told of what follows
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
