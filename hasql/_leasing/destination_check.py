"""The check that a connection leads to the master that its lease was routed to.

Mostly nothing has to be asked: see `Destinations.doubtful`, which the checkout looks at first.
"""

import asyncio
import logging

from hasql._routing.node import Node
from hasql.cluster.probe import writes_query
from hasql.driver import ConnT, DriverPool, PoolT

log = logging.getLogger("hasql")

__all__ = ("WrongServerError", "check_destination")


#: Seconds in which a connection has to answer: the user has not got it yet, so that one which has
#: gone deaf, or a host which has gone silent, must not cost all the time of an acquire.
_ANSWER = 0.5


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
    sql = writes_query(server if node.several else None)
    # A pooler may answer late, as all its connections are in use: another would wait as long.
    async with asyncio.timeout(None if node.pooled else _ANSWER):
        writes = await pool.count_rows(connection, sql)
    if not writes or pool.key(connection) is None:
        return False  # which was broken meanwhile, in the second case
    if pool.in_hot_standby(connection) is False:
        known.writes(key)
    if not node.several:
        return True
    if server is not None:
        known.lead_to(key, server)
    return server == node.server  # else the name has moved while this was asked


async def _discard(pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
    pool.abort(connection)
    try:
        await pool.release(connection)
    except Exception as error:  # noqa: BLE001  # it is broken anyway
        log.debug("a connection that leads elsewhere could not be given back: %r", type(error))
