"""The check that a connection leads to the master that its lease was routed to.

Mostly nothing has to be asked: see `Destinations.doubtful`, which the checkout looks at first.
"""

from hasql.destinations import Server
from hasql.driver import ConnT, DriverPool, PoolT
from hasql.node import Node

__all__ = ("WrongServerError", "check_destination")


class WrongServerError(ConnectionError):
    """A connection leads to another server than the master; never leaves hasql."""


async def check_destination(
    node: Node[PoolT, ConnT], pool: DriverPool[PoolT, ConnT], connection: ConnT
) -> None:
    """Make sure that a connection leads to the master, asking the server if need be.

    Raises WrongServerError, and the connection is broken and given back then; so it is whatever
    else ends the question.
    """
    try:
        if await _leads_to_master(node, pool, connection):
            return
    except Exception as error:  # noqa: BLE001  # the connection is of no use, whatever it was
        await _discard(pool, connection)
        raise WrongServerError(f"a connection could not be asked where it leads: {error}") from None
    except BaseException:
        await _discard(pool, connection)
        raise
    await _discard(pool, connection)
    raise WrongServerError("a connection to this name leads to a server that is not the master")


async def _leads_to_master(
    node: Node[PoolT, ConnT], pool: DriverPool[PoolT, ConnT], connection: ConnT
) -> bool:
    key, known = pool.key(connection), pool.destinations
    if key is None:
        return False  # broken meanwhile
    flag, server = pool.in_hot_standby(connection), node.server
    if flag is False:
        known.writes(key)
    # `on` is only as old as the last answer: after a promotion all that was idle still says so.
    if flag is not True and (
        not node.several or (server is not None and known.server_of(key) == server)
    ):
        return True
    if not await pool.count_rows(connection, _question(server if node.several else None)):
        return False
    if pool.in_hot_standby(connection) is False:
        known.writes(key)
    if not node.several:
        return True
    if server is not None:
        known.lead_to(key, server)
    return server == node.server  # else the name has moved while this was asked


async def _discard(pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
    pool.abort(connection)
    await pool.release(connection)


def _question(server: Server | None) -> str:
    """Return SQL that has a row if the server writes, and is this one.

    No value is read, as those go through codecs of the application's.
    """
    sql = "SELECT FROM (SELECT 1) AS s WHERE NOT pg_catalog.pg_is_in_recovery()"
    if server is None:
        return sql
    system_id, started_at = server
    # Two numbers that a probe has read, in the application's session: no parameters, no codec.
    identity = "(SELECT system_identifier FROM pg_catalog.pg_control_system())"
    start = "(extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint"
    return f"{sql} AND {identity} = {system_id} AND {start} = {started_at}"
