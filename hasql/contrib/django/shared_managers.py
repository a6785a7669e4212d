"""The pool managers of this process, which aliases share."""

from __future__ import annotations

import atexit
import logging
import os
from contextlib import suppress
from threading import Lock
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from django.db import connections
from psycopg.conninfo import make_conninfo

from hasql.contrib.django.lent_connection import LentConnection
from hasql.contrib.django.manager_settings import explained
from hasql.contrib.django.session_state import undo
from hasql.diagnostics import about, counted
from hasql.errors import HasqlError, NotAvailableError
from hasql.sync.psycopg3 import PoolManager

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection

    from hasql._adapters.psycopg.thread_connection import ThreadConnection
    from hasql.contrib.django.manager_settings import AcquireSettings, ManagerSettings
    from hasql.contrib.django.session_state import SessionState

    _Hook = Callable[[Any], object]

__all__ = ("DEFAULT_SIZES", "SharedManager", "all_managers", "close_where", "manager_of")

log = logging.getLogger("hasql")

#: Django's own backend opens a connection for each thread, and has no limit. This one is what
#: PostgreSQL itself has by default: a request waits for a place where it would have failed.
DEFAULT_SIZES: Final = {"min_size": 0, "max_size": 100}

_FIRST_LOOK = 1.0
"""Seconds for which the first read waits to learn which hosts are replicas."""

#: Seconds for leases to come back when a database is about to be dropped.
_LET_GO = 1.0
#: Seconds that the end of the process waits for transactions in other threads.
_LAST = 5.0
_BETWEEN_LOOKS = 0.02


class SharedManager:
    """One pool manager, and the settings that lead to it."""

    def __init__(self, settings: ManagerSettings, pool: PoolManager) -> None:
        self.settings = settings
        self.pool = pool
        self._known_to = 0
        #: What is lent, as far as it is anybody's still.
        self._lent: WeakSet[LentConnection] = WeakSet()

    def lend(self, acquire: AcquireSettings, timeout: float) -> LentConnection:
        """Take a connection, within so many seconds.

        Raises:
            NotAvailableError: There was none in time.
            PoolManagerClosedError: The manager was closed meanwhile.
        """
        connection = self.pool.getconn(
            acquire.read_only, acquire.fallback_master, acquire.master_as_replica_weight, timeout
        )
        lent = LentConnection(self.pool, connection)
        self._lent.add(lent)
        return lent

    def drain(self) -> None:
        """Let transactions in other threads end, as the process ends."""
        deadline = monotonic() + _LAST
        if busy := self._give_back_idle():
            log.info(
                "draining: %s of Django's may end what they are in within %g s",
                counted(busy, "connection"),
                _LAST,
                extra=about("draining"),
            )
        while self._give_back_idle() and monotonic() < deadline:
            sleep(_BETWEEN_LOOKS)
        with suppress(HasqlError):
            self.pool.drain(max(0.0, deadline - monotonic()))

    def _give_back_idle(self) -> int:
        """Give back what is kept for requests that will not come; return how many are busy."""
        busy = 0
        for lent in tuple(self._lent):
            if lent.is_idle:
                lent.give_back()
            busy += not lent.given_back
        return busy

    def begin_anew(self) -> None:
        """Have nothing lent, in a child that was just forked."""
        self._lent = WeakSet()

    @property
    def has_replica(self) -> bool:
        """Whether a replica is in routing; asked for the first time, it looks at the hosts."""
        if self._known_to != os.getpid():  # a forked child's manager starts afresh
            with suppress(NotAvailableError):
                self.pool.wait_next_pool_check(_FIRST_LOOK)
            self._known_to = os.getpid()
        return self.pool.replica_pool_count > 0


_managers: list[SharedManager] = []
_lock = Lock()


def manager_of(
    settings: ManagerSettings, alias: str, context: object, state: SessionState
) -> SharedManager:
    """Return the manager of a cluster, made at the first time; nothing is started.

    Args:
        settings: What it depends on.
        alias: Who asks first.
        context: For the adapters of psycopg.
        state: What new connections are made to have, as it is what the first alias wants.

    Raises:
        ImproperlyConfigured: The settings can't be right, whatever the hosts may say.
    """
    for shared in tuple(_managers):
        if shared.settings == settings and not shared.pool.closing:
            return shared
    with _lock:
        for shared in _managers:
            if shared.settings == settings and not shared.pool.closing:
                return shared
        _managers[:] = [shared for shared in _managers if not shared.pool.closing]
        with explained(alias):
            made = SharedManager(settings, _make(settings, context, state))
        _managers.append(made)
        return made


def _make(settings: ManagerSettings, context: object, state: SessionState) -> PoolManager:
    options: dict[str, Any] = dict(settings.options)
    given: dict[str, Any] = dict(options.pop("pool_factory_kwargs", None) or {})
    sizes = {} if DEFAULT_SIZES.keys() & given.keys() else DEFAULT_SIZES
    pool_kwargs = {
        **sizes,
        **given,
        "kwargs": {"context": context, "autocommit": True, **(given.get("kwargs") or {})},
        # What `configure` has added to the handlers stays.
        "configure": _both(_both(state.set_on, given.get("configure")), _keep_handlers),
        "reset": _both(undo, given.get("reset")),
    }
    dsn = make_conninfo(**settings.parameters)
    return PoolManager(dsn, pool_factory_kwargs=pool_kwargs, **options)


def _both(ours: _Hook, theirs: _Hook | None) -> _Hook:
    if theirs is None:
        return ours

    def both(connection: Connection[Any]) -> None:
        ours(connection)
        theirs(connection)

    return both


def _keep_handlers(connection: ThreadConnection) -> None:
    connection.keep_handlers()


def all_managers() -> tuple[SharedManager, ...]:
    """Return those that there are."""
    return tuple(_managers)


def close_where(chosen: Callable[[ManagerSettings], bool]) -> None:
    """Close managers; the next use of their aliases makes new ones."""
    with _lock:
        closed = [shared for shared in _managers if chosen(shared.settings)]
        _managers[:] = [shared for shared in _managers if shared not in closed]
    for shared in closed:
        shared.pool.close(_LET_GO)


def _begin_anew() -> None:
    global _lock  # noqa: PLW0603  # a thread that the child does not have may have held it
    _lock = Lock()
    for shared in _managers:
        shared.begin_anew()


def _drain_all() -> None:
    with suppress(Exception):
        connections.close_all()  # this thread's, which does nothing with them any more
    for shared in tuple(_managers):
        shared.drain()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
# What is registered last is called first: before `hasql.sync.base`, which is imported above, breaks
# what nobody has closed.
atexit.register(_drain_all)
