"""Connections of asyncpg: how to open and read them, and what their errors say."""

from __future__ import annotations

import gc
import ssl
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from hasql._adapters.fork_guard import cut_off_in_children
from hasql.driver import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = (
    "Connection",
    "Pool",
    "RawConnection",
    "check_open",
    "connect_of",
    "count_rows",
    "failure_of",
    "guard_from_forks",
    "in_hot_standby",
    "is_closed",
    "is_read_only",
    "roll_back",
    "sqlstate_of",
    "transport_of",
)

# Strings, because asyncpg's classes are generic only in its type stubs.
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
RawConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_CLOSED = "connection is closed"


def connect_of(kwargs: Mapping[str, Any]) -> Any:
    """Return the function that opens a connection: the user's `connect`, else asyncpg's."""
    return kwargs.get("connect") or asyncpg.connect


def guard_from_forks(connection: RawConnection) -> None:
    """Keep forked children off the server of this connection; see `cut_off_in_children`."""
    cut_off_in_children(connection, _descriptor_of)


def _descriptor_of(connection: RawConnection) -> int:
    descriptor: int = transport_of(connection).get_extra_info("socket").fileno()
    return descriptor


def check_open(connection: RawConnection) -> None:
    """Raise ConnectionError if a connection was lost right after its login."""
    if connection.is_closed():
        raise ConnectionError("the connection was lost as soon as it was opened")


def transport_of(connection: RawConnection) -> Any:
    """Return the transport that a connection reads from and writes to."""
    # asyncpg has no attribute that leads to the transport, but the garbage collector can list the
    # objects that a connection refers to.
    for each in gc.get_referents(connection):
        if hasattr(each, "get_extra_info"):
            return each
    raise LookupError("asyncpg has changed: hasql finds no transport in a connection")


def in_hot_standby(connection: Connection | RawConnection) -> bool | None:
    """Return what the server last reported; None: nothing, as before PostgreSQL 14."""
    settings: Any = connection.get_settings()
    try:
        # Called directly: getattr() would look everywhere else first, which costs 0.6 us, and each
        # lease of a replica asks twice.
        flag = settings.__getattr__("in_hot_standby")
    except AttributeError:
        return None
    in_standby: bool = flag == "on"
    return in_standby


def is_closed(connection: Connection) -> bool:
    """Tell whether a leased connection is known to be gone."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True  # the proxy was detached: the connection was terminated or given back


def is_read_only(connection: Connection | RawConnection) -> bool:
    """Tell whether transactions are read-only by default, as the server reported last."""
    return getattr(connection.get_settings(), "default_transaction_read_only", "off") == "on"


async def roll_back(connection: Connection | RawConnection) -> None:
    """Roll an open transaction back."""
    if connection.is_in_transaction():
        proxy: Any = connection
        await asyncpg.Connection.execute(proxy, "ROLLBACK")


async def count_rows(connection: Connection | RawConnection, sql: str) -> int:
    """Run a query and return how many rows it has, as its command tag says."""
    # This calls asyncpg's own method: the application's connection class may override it.
    proxy: Any = connection
    tag = await asyncpg.Connection.execute(proxy, sql)
    return int(tag.rpartition(" ")[2])


def sqlstate_of(error: BaseException) -> str | None:
    """Return the server's SQLSTATE; empty: asyncpg raised the error itself; None: neither did."""
    if isinstance(error, asyncpg.PostgresError):
        return _first_said(error).sqlstate or ""
    own = isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError)
    return "" if own or _is_asyncpgs_own(error) else None


def _is_asyncpgs_own(error: BaseException) -> bool:
    """Tell whether asyncpg failed because its connection was terminated during an operation."""
    step = error.__traceback__
    if step is None or not isinstance(error, AttributeError):
        return False
    # asyncpg sets what it drops to None. Any other object is a mistake of the application's.
    if error.name is None or error.obj is not None:
        return False
    while step.tb_next is not None:
        step = step.tb_next
    module: str = step.tb_frame.f_globals.get("__name__", "")
    return module.startswith("asyncpg.")


def _first_said(error: asyncpg.PostgresError) -> asyncpg.PostgresError:
    """Return the error with which the server ended the connection, if it caused this one."""
    cause = error.__cause__
    return cause if isinstance(cause, asyncpg.PostgresError) else error


def failure_of(error: BaseException) -> Failure:
    """Say what an exception tells about the server."""
    if isinstance(error, asyncpg.PostgresError):
        error = _first_said(error)
        return Failure.of_sqlstate(error.sqlstate or "", str(error))
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return Failure.MISCONFIGURED
    # The connection was lost while a hook, or SQLAlchemy, still prepared it for use, or after the
    # server had said that it shuts down. asyncpg's messages differ, but all end alike.
    lost = isinstance(error, asyncpg.InterfaceError) and str(error).endswith(_CLOSED)
    if lost or isinstance(error, asyncpg.InternalClientError) or _is_asyncpgs_own(error):
        return Failure.BROKEN
    if isinstance(error, ssl.SSLError):
        return _failure_of_tls(error)
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return Failure.REFUSED  # the server has no TLS
    return Failure.of_exception(error)


def _failure_of_tls(error: ssl.SSLError) -> Failure:
    reason, library = error.reason or "", error.library or ""
    if isinstance(error, ssl.SSLCertVerificationError) or "_ALERT_" in reason:
        return Failure.REFUSED  # one side refuses the other's certificate
    # A file could be read, but it holds no certificate, or one that does not match the key.
    of_files = library and (library != "SSL" or not reason)
    return Failure.MISCONFIGURED if of_files else Failure.BROKEN
