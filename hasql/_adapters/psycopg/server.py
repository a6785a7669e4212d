"""What a psycopg 3 connection tells about the server behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import generators
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import BaseConnection, Connection
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult

    from hasql._adapters.psycopg.connection import PsycopgConnection
    from hasql._adapters.psycopg.thread_connection import ThreadConnection

__all__ = (
    "ask",
    "ask_in_thread",
    "count_rows",
    "count_rows_in_thread",
    "first_row",
    "in_hot_standby",
    "is_read_only",
)

_BAD = ConnStatus.BAD


def in_hot_standby(connection: BaseConnection[Any]) -> bool | None:
    """Return what the server reported last. PostgreSQL reports this since version 14."""
    # Not `closed`, which would take as long as the rest of this function.
    server = connection.pgconn
    flag = None if server.status == _BAD else server.parameter_status(b"in_hot_standby")
    return None if flag is None else flag == b"on"


def is_read_only(connection: BaseConnection[Any]) -> bool:
    """Tell whether transactions are read-only by default, as the server reported last."""
    return connection.pgconn.parameter_status(b"default_transaction_read_only") == b"on"


async def count_rows(connection: PsycopgConnection, sql: str) -> int:
    """Run a query in a transaction of its own and return how many rows it has."""
    return (await ask(connection, sql)).ntuples


def count_rows_in_thread(connection: ThreadConnection, sql: str) -> int:
    """Do the same as `count_rows` on a synchronous connection."""
    return ask_in_thread(connection, sql).ntuples


async def ask(connection: PsycopgConnection, sql: str) -> PGresult:
    """Run a query in the transaction that is open, or in one of its own.

    This does not use psycopg's cursors: they would begin a transaction and leave it open.
    """
    before, connection.used_by_hasql = connection.used_by_hasql, True
    try:
        async with connection.lock:
            connection.pgconn.send_query(sql.encode())
            (result,) = await connection.wait(generators.execute(connection.pgconn))
    finally:
        connection.used_by_hasql = before
    return _checked(result)


def ask_in_thread(connection: Connection[Any], sql: str) -> PGresult:
    """Do the same as `ask` on a synchronous connection."""
    with connection.lock:
        (result,) = connection.wait(_query(connection.pgconn, sql))
    return _checked(result)


def _query(server: PGconn, sql: str) -> PQGen[list[PGresult]]:
    server.send_query(sql.encode())
    results: list[PGresult] = yield from generators.execute(server)
    return results


def _checked(result: PGresult) -> PGresult:
    if result.status != ExecStatus.TUPLES_OK:
        raise error_from_result(result)
    return result


def first_row(result: PGresult | None) -> Sequence[str | None]:
    """Return the first row of a result, or an empty tuple if there is none.

    A cursor would read the row with loaders, and the application may have registered its own
    loaders for every connection of the process.
    """
    if result is None or not result.ntuples:
        return ()
    values = (result.get_value(0, column) for column in range(result.nfields))
    return tuple(v if v is None else v.decode("utf-8", "backslashreplace") for v in values)
