"""The settings of one lease: read-only mode for reads on a master, and what an acquire overrides.

A setting costs its connection a round trip when it is lent, and one when it is back. The
read-only mode that a manager sets for all its leases costs one only where it changes: it stays on
the connection until a lease that may write gets that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hasql._leasing.destination_check import ask, discard
from hasql._leasing.lease import Lease
from hasql._routing.node import Node
from hasql._routing.request import MASTER
from hasql.driver import AsyncPool, ConnT, DriverPool, PoolT, ThreadPool
from hasql.driver.own_task import in_own_task
from hasql.driver.session_settings import restore_query, set_query
from hasql.errors import ConfigurationError

__all__ = (
    "LeaseSettings",
    "PoolerRefusesError",
    "must_be_read_only",
    "note_changed",
    "prepare_session",
    "session_change",
    "undo_settings",
    "undo_settings_in_thread",
)

_READ_ONLY: Final = "default_transaction_read_only"


class PoolerRefusesError(ConfigurationError):
    """A setting was asked for that, behind a pooler, would reach other clients, too."""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """What an acquire, or the manager for all acquires, wants of the session besides the login."""

    #: What is set for this lease alone, and undone on its return.
    overrides: Mapping[str, str] = field(default_factory=dict)
    #: Whether a connection that is lent for reading must be read-only, even on a master.
    enforce_read_only: bool = False
    #: Whether that is so for all leases of the manager.
    enforced_for_all: bool = False


_NONE: Final = LeaseSettings()


class SessionChange(NamedTuple):
    """SQL that has to run on a connection before it is lent."""

    query: str
    #: Whether the SQL makes the connection read-only (True), or ends that (False); None: neither.
    read_only: bool | None


def session_change(
    lease: Lease[PoolT, ConnT],
    node: Node[PoolT, ConnT],
    pool: DriverPool[PoolT, ConnT],
    connection: ConnT,
) -> SessionChange | None:
    """Return what has to run on a connection before it is lent; None: nothing.

    Raises PoolerRefusesError for a setting that cannot be made behind a pooler.
    """
    key, known = pool.key(connection), pool.destinations
    wanted = lease.settings or _NONE
    lease.undo = lease.local_settings = None
    lease.read_only = False
    if key in known.lacking:
        lease.local_settings = _made_locally(lease, node, known.lacking[key])
    read_only: bool | None = None
    if must_be_read_only(lease, node):
        lease.read_only = pool.is_read_only(connection)
        read_only = None if lease.read_only else True
    elif key in known.made_read_only and (node.as_master or lease.fixed_node is not None):
        # A reset may have ended that mode. Servers before PostgreSQL 14 do not report that.
        if pool.is_read_only(connection) or pool.in_hot_standby(connection) is None:
            read_only = False
        else:
            known.made_read_only.discard(key)
    if read_only is None and not wanted.overrides:
        return None
    if node.pooled:
        raise PoolerRefusesError(_refusal(node, wanted, read_only=read_only))
    changes = {} if read_only is None else {_READ_ONLY: "on" if read_only else None}
    return SessionChange(set_query(changes, kept=wanted.overrides), read_only)


def must_be_read_only(lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT]) -> bool:
    """Tell whether a lease is for reading, and only a setting would keep it from writing."""
    wanted = lease.settings
    return (
        wanted is not None
        and wanted.enforce_read_only
        and lease.request is not MASTER
        and lease.fixed_node is None
        and not node.as_replica
        and not lease.sets_locally
    )


def note_changed(
    lease: Lease[PoolT, ConnT],
    pool: DriverPool[PoolT, ConnT],
    connection: ConnT,
    change: SessionChange,
) -> None:
    """Take note that the SQL from `session_change` has run on a connection."""
    key, known, wanted = pool.key(connection), pool.destinations, lease.settings or _NONE
    undone: dict[str, str | None] = {}
    if change.read_only:
        lease.read_only = True
        if wanted.enforced_for_all:
            known.note_made_read_only(key)
        else:
            undone[_READ_ONLY] = None
    elif change.read_only is not None:
        known.made_read_only.discard(key)
    if wanted.overrides or undone:
        lease.undo = restore_query(wanted.overrides, undone)


async def prepare_session(
    lease: Lease[PoolT, ConnT],
    node: Node[PoolT, ConnT],
    pool: AsyncPool[PoolT, ConnT],
    connection: ConnT,
) -> None:
    """Make the settings that a task's lease wants; if that fails, give the connection back."""
    try:
        change = session_change(lease, node, pool, connection)
        if change is None:
            return
        await ask(pool, connection, change.query, None)
        note_changed(lease, pool, connection, change)
    except PoolerRefusesError:
        await pool.release(connection)  # nothing is wrong with it
        raise
    except BaseException:
        await discard(pool, connection)
        raise


async def undo_settings(
    lease: Lease[PoolT, ConnT], pool: AsyncPool[PoolT, ConnT], connection: ConnT
) -> None:
    """Undo what was set for one lease, on a connection that is being given back.

    This runs in a task of its own, because another task may have to finish the release. Raises the
    driver's errors.
    """
    query, lease.undo = lease.undo, None
    assert query is not None  # noqa: S101  # the caller has checked that

    async def undo() -> None:
        await pool.roll_back(connection)
        await pool.count_rows(connection, query)

    await in_own_task(undo)


def undo_settings_in_thread(
    lease: Lease[PoolT, ConnT], pool: ThreadPool[PoolT, ConnT], connection: ConnT
) -> None:
    """Undo what was set for one lease in a thread, as `undo_settings` does for a task."""
    query, lease.undo = lease.undo, None
    assert query is not None  # noqa: S101  # as above
    pool.roll_back(connection)
    pool.count_rows(connection, query)


def _made_locally(
    lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT], lacks: tuple[str, ...]
) -> str:
    """Return SQL that sets, for one transaction, what a pooled connection lacks."""
    settings = node.endpoint.settings
    if not lease.sets_locally:
        raise PoolerRefusesError(_told(node, ", ".join(lacks), "session= of the manager"))
    return set_query({name: settings.parameters[name] for name in lacks}, local=True)


def _refusal(node: Node[PoolT, ConnT], wanted: LeaseSettings, *, read_only: bool | None) -> str:
    if read_only is not None:
        return _told(node, _READ_ONLY, "enforce_read_only, for a read that has come to a master,")
    return _told(node, ", ".join(wanted.overrides), "session= of this acquire")


def _told(node: Node[PoolT, ConnT], names: str, what: str) -> str:
    tracking = (
        "; search_path, which PostgreSQL 18 reports, PgBouncer 1.20 can track for each client "
        "(track_extra_parameters)"
    )
    return (
        f"{what} cannot set {names} on {node.host}, which is behind a pooler: it takes no such "
        "setting at the login, and a SET would reach whoever gets the server's session next. Use "
        "run(), which sets it for its transaction, or set it where the pooler logs in: ALTER ROLE "
        f"… SET, or the pooler's own configuration{tracking if 'search_path' in names else ''}"
    )
