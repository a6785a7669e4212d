"""The checks of a connection before it is lent: that it is alive, and leads where it should.

Usually no server has to be asked: a checkout first looks at `Destinations.maybe_dead` and
`Destinations.maybe_standby`.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from hasql._routing.node import Node
from hasql.cluster.probe import writes_query
from hasql.diagnostics import about
from hasql.driver import AsyncPool, ConnT, DriverPool, PoolT, ThreadPool
from hasql.driver.deadline import OutOfTimeError, cancel_again, cancellations
from hasql.driver.destinations import Server
from hasql.driver.time_left import TimeLeft

log = logging.getLogger("hasql")

__all__ = (
    "WrongServerError",
    "answers",
    "answers_in_thread",
    "ask",
    "check_destination",
    "check_destination_in_thread",
    "discard",
)

#: Seconds in which a connection has to answer. The application does not have the connection yet, so
#: a deaf connection or a silent host must not use up all the time of an acquire.
_ANSWER = 0.5


class WrongServerError(ConnectionError):
    """A connection leads to another server than the master. This error never leaves hasql."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What a connection is asked; the answer has a row if the connection leads to the master."""

    sql: str
    #: Seconds for the answer; None: all that the acquire has left. A pooler may answer late because
    #: all its connections are in use, and another connection would wait just as long.
    seconds: float | None
    #: Whether the name is known to lead to several servers, and the one that it should lead to.
    several_servers: bool
    server: Server | None


def _question_for(
    node: Node[PoolT, ConnT], pool: DriverPool[PoolT, ConnT], connection: ConnT
) -> _Question | None:
    """Return what a connection must be asked; None: it is known to lead to the master.

    Raises ConnectionError if the connection was broken meanwhile.
    """
    key, known = pool.key(connection), pool.destinations
    if key is None:
        raise ConnectionError("the connection was broken meanwhile")
    flag, server, several = pool.in_hot_standby(connection), node.server, node.several_servers
    if flag is False:
        known.note_writes(key)
    # `on` dates from the connection's last answer: after a promotion every connection that was idle
    # still says `on`.
    if flag is not True and (
        not several or (server is not None and known.server_of(key) == server)
    ):
        return None
    seconds = None if node.pooled else _ANSWER
    return _Question(writes_query(server if several else None), seconds, several, server)


def _is_right(
    question: _Question,
    rows: int,
    node: Node[PoolT, ConnT],
    pool: DriverPool[PoolT, ConnT],
    connection: ConnT,
) -> bool:
    """Take note of an answer with so many rows; return whether it is the master's."""
    key, known = pool.key(connection), pool.destinations
    if not rows or key is None:
        return False  # no key: the connection was broken meanwhile
    if pool.in_hot_standby(connection) is False:
        known.note_writes(key)
    if not question.several_servers:
        return True
    if question.server is not None:
        known.note_server(key, question.server)
    return question.server == node.server  # they differ if the name has moved meanwhile


def _not_the_master(error: BaseException | None) -> WrongServerError:
    if error is not None:
        return WrongServerError(
            f"a connection could not be asked which server it leads to: {error}"
        )
    return WrongServerError("a connection to this name leads to a server that is not the master")


async def ask(
    pool: AsyncPool[PoolT, ConnT], connection: ConnT, sql: str, seconds: float | None
) -> int:
    """Run a query on a connection that is about to be lent; return the number of rows."""
    before = cancellations()
    async with asyncio.timeout(seconds):
        rows = await pool.count_rows(connection, sql)
    if cancellations() > before:  # a driver may have swallowed the cancellation
        await cancel_again()
    return rows


async def answers(
    node: Node[PoolT, ConnT], pool: AsyncPool[PoolT, ConnT], connection: ConnT
) -> bool:
    """Tell whether a connection can be used; a connection that may have ended is asked.

    If it cannot be used, it is broken and given back, and the other open ones may be dead, too:
    a task that has met one connection error must not meet another.
    """
    key, known = pool.key(connection), pool.destinations
    if key not in known.maybe_dead:
        return True  # no key: the connection has just ended, as a lent one may at any time
    known.maybe_dead.discard(key)
    try:
        await ask(pool, connection, "SELECT 1", None if node.pooled else _ANSWER)
    except Exception as error:  # noqa: BLE001  # whatever failed, the connection is of no use
        extra = about("connection_lost", host=node.host)
        log.debug("%s: an idle connection had ended: %r", node.host, type(error), extra=extra)
        await discard(pool, connection)
        known.note_all_maybe_dead()
        return False
    except BaseException:
        await discard(pool, connection)
        raise
    return True


async def check_destination(
    node: Node[PoolT, ConnT], pool: AsyncPool[PoolT, ConnT], connection: ConnT
) -> None:
    """Make sure that a task's connection leads to the master, asking the server if need be.

    Raises WrongServerError if it does not, or if that cannot be found out. The connection is then
    broken and given back; this also happens if anything else ends the query.
    """
    failed = None
    try:
        if (question := _question_for(node, pool, connection)) is None:
            return
        rows = await ask(pool, connection, question.sql, question.seconds)
        if _is_right(question, rows, node, pool, connection):
            return
    except Exception as error:  # noqa: BLE001  # whatever failed, the connection is of no use
        failed = error
    except BaseException:
        await discard(pool, connection)
        raise
    await discard(pool, connection)
    raise _not_the_master(failed)


async def discard(pool: AsyncPool[PoolT, ConnT], connection: ConnT) -> None:
    """Break a connection that must not be lent, and give it back."""
    pool.abort(connection)
    try:
        await pool.release(connection)
    except Exception as error:  # noqa: BLE001  # it is broken anyway
        log.debug(
            "a connection that leads elsewhere could not be given back: %r",
            type(error),
            extra=about("connection_closed"),
        )


def check_destination_in_thread(
    node: Node[PoolT, ConnT],
    pool: ThreadPool[PoolT, ConnT],
    connection: ConnT,
    time_left: TimeLeft,
    aborting_after: Callable[[float], AbstractContextManager[object]],
) -> None:
    """Make sure that a thread's connection leads to the master, asking the server if need be.

    Raises WrongServerError as `check_destination` does, or OutOfTimeError once the acquire has no
    time left; the caller then has to discard the connection. `aborting_after(seconds)` makes the
    context of a block, and aborts the connection if the block takes longer.
    """
    failed = None
    try:
        if (question := _question_for(node, pool, connection)) is None:
            return
        with aborting_after(_time_for(question.seconds, time_left)):
            rows = pool.count_rows(connection, question.sql)
        if _is_right(question, rows, node, pool, connection):
            return
    except Exception as error:  # noqa: BLE001  # whatever failed, the connection is of no use
        failed = error
        if not time_left.seconds:
            raise OutOfTimeError from None  # it may be the cause, and says nothing of the server
    raise _not_the_master(failed)


def answers_in_thread(
    node: Node[PoolT, ConnT],
    pool: ThreadPool[PoolT, ConnT],
    connection: ConnT,
    time_left: TimeLeft,
    aborting_after: Callable[[float], AbstractContextManager[object]],
) -> bool:
    """Tell whether a thread's connection can be used, as `answers` does for tasks.

    If it cannot be used, the caller has to discard it.
    """
    key, known = pool.key(connection), pool.destinations
    if key not in known.maybe_dead:
        return True
    known.maybe_dead.discard(key)
    try:
        with aborting_after(_time_for(None if node.pooled else _ANSWER, time_left)):
            pool.count_rows(connection, "SELECT 1")
    except Exception as error:  # noqa: BLE001  # whatever failed, the connection is of no use
        extra = about("connection_lost", host=node.host)
        log.debug("%s: an idle connection had ended: %r", node.host, type(error), extra=extra)
        known.note_all_maybe_dead()
        return False
    return True


def _time_for(seconds: float | None, time_left: TimeLeft) -> float:
    """Return the seconds for an answer, at most what the acquire has left; None: all of that."""
    return time_left.seconds if seconds is None else min(seconds, time_left.seconds)
