"""The pool managers of this process; several aliases can share one."""

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
from hasql.contrib.django.manager_settings import as_django_error
from hasql.contrib.django.session_state import reset_session
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

__all__ = ("DEFAULT_SIZES", "SharedManager", "all_managers", "close_managers", "manager_of")

log = logging.getLogger("hasql")

#: Django's own backend opens a connection for each thread, without a limit. The limit here is
#: PostgreSQL's own default: beyond it a request waits for a connection instead of failing.
DEFAULT_SIZES: Final = {"min_size": 0, "max_size": 100}

_FIRST_PROBES_TIMEOUT = 1.0
"""Seconds that the first read waits to learn which hosts are replicas."""

#: Seconds to wait for leases to be given back before a database is dropped.
_CLOSE_TIMEOUT = 1.0
#: Seconds that the exiting process waits for transactions in other threads.
_EXIT_TIMEOUT = 5.0
_POLL_INTERVAL = 0.02


class SharedManager:
    """A pool manager, and the settings that lead to it."""

    def __init__(self, settings: ManagerSettings, pool: PoolManager) -> None:
        self.settings = settings
        self.pool = pool
        self._waited_in_process = 0
        #: The lent connections, as long as something else refers to them.
        self._lent: WeakSet[LentConnection] = WeakSet()

    def lend(self, acquire: AcquireSettings, timeout: float) -> LentConnection:
        """Acquire a connection within `timeout` seconds.

        Raises:
            NotAvailableError: No connection was available in time.
            PoolManagerClosedError: The manager was closed meanwhile.
        """
        connection = self.pool.getconn(
            acquire.read_only, acquire.fallback_master, acquire.master_as_replica_weight, timeout
        )
        lent = LentConnection(self.pool, connection)
        self._lent.add(lent)
        return lent

    def drain(self) -> None:
        """When the process exits, let transactions in other threads end."""
        deadline = monotonic() + _EXIT_TIMEOUT
        if busy := self._give_back_idle():
            log.info(
                "draining: giving %s of Django %g s to end their transactions",
                counted(busy, "connection"),
                _EXIT_TIMEOUT,
                extra=about("draining"),
            )
        while self._give_back_idle() and monotonic() < deadline:
            sleep(_POLL_INTERVAL)
        with suppress(HasqlError):
            self.pool.drain(max(0.0, deadline - monotonic()))

    def _give_back_idle(self) -> int:
        """Give back idle connections, as no more requests come; return how many are still busy."""
        busy = 0
        for lent in tuple(self._lent):
            if lent.is_idle:
                lent.give_back()
            busy += not lent.given_back
        return busy

    def reset_after_fork(self) -> None:
        """Forget the lent connections in a child that was just forked: they are the parent's."""
        self._lent = WeakSet()

    @property
    def has_replica(self) -> bool:
        """Whether a replica is in routing; the first call waits a moment for the first probes."""
        if self._waited_in_process != os.getpid():  # a forked child's manager starts afresh
            with suppress(NotAvailableError):
                self.pool.wait_next_pool_check(_FIRST_PROBES_TIMEOUT)
            self._waited_in_process = os.getpid()
        return self.pool.replica_pool_count > 0


_managers: list[SharedManager] = []
_lock = Lock()


def manager_of(
    settings: ManagerSettings, alias: str, context: object, state: SessionState
) -> SharedManager:
    """Return the pool manager of a cluster; the first call makes it, but does not start it.

    Args:
        settings: The settings that the manager is made from, and found by.
        alias: The alias that asks; error messages name it.
        context: Holds the type adapters of psycopg.
        state: The session state that new connections get: the one that the first alias asks for.

    Raises:
        ImproperlyConfigured: The settings are wrong in themselves, whatever the hosts say.
    """
    for shared in tuple(_managers):
        if shared.settings == settings and not shared.pool.closing:
            return shared
    with _lock:
        for shared in _managers:
            if shared.settings == settings and not shared.pool.closing:
                return shared
        _managers[:] = [shared for shared in _managers if not shared.pool.closing]
        with as_django_error(alias):
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
        # Handlers that `configure` adds stay on the connection.
        "configure": _both(_both(state.set_on, given.get("configure")), _keep_handlers),
        "reset": _both(reset_session, given.get("reset")),
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
    """Return all pool managers of this process."""
    return tuple(_managers)


def close_managers(chosen: Callable[[ManagerSettings], bool]) -> None:
    """Close the managers with the chosen settings; the next use of their aliases makes new ones."""
    with _lock:
        closed = [shared for shared in _managers if chosen(shared.settings)]
        _managers[:] = [shared for shared in _managers if shared not in closed]
    for shared in closed:
        shared.pool.close(_CLOSE_TIMEOUT)


def _reset_after_fork() -> None:
    global _lock  # noqa: PLW0603  # a thread that does not exist in the child may have held it
    _lock = Lock()
    for shared in _managers:
        shared.reset_after_fork()


def _drain_all() -> None:
    with suppress(Exception):
        connections.close_all()  # the connections of this thread, which needs them no more
    for shared in tuple(_managers):
        shared.drain()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
# The function registered last is called first: this one runs before that of `hasql.sync.base`,
# imported above, which breaks every connection that was not closed.
atexit.register(_drain_all)
