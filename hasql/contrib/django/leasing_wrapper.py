"""A connection wrapper of Django's that takes connections from a pool manager and returns them."""

from __future__ import annotations

import os
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, finalize

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper as PsycopgWrapper
from django.utils.asyncio import async_unsafe
from psycopg.rows import tuple_row

from hasql.contrib.django.lent_connection import LentConnection, abandoned
from hasql.contrib.django.manager_settings import AcquireSettings, ManagerSettings
from hasql.contrib.django.replica_router import is_read_by_router
from hasql.contrib.django.session_state import SessionState
from hasql.contrib.django.shared_managers import SharedManager, manager_of
from hasql.errors import NotAvailableError, PoolManagerClosedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import Connection

__all__ = ("LeasingWrapper",)


class LeasingWrapper(PsycopgWrapper):
    """Django's wrapper; it acquires a connection instead of opening one, and gives it back."""

    #: Django's own pool is not used: OPTIONS["pool"] is refused.
    pool = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lent: LentConnection | None = None
        self._finalizer: finalize[..., Any] | None = None
        self._is_under_check = False

    # Acquiring a connection

    def _shared(self, parameters: Mapping[str, Any]) -> SharedManager:
        settings = ManagerSettings.of(self.settings_dict, parameters)
        return manager_of(settings, self.alias, parameters["context"], self._session_state)

    @property
    def _session_state(self) -> SessionState:
        role = self.settings_dict["OPTIONS"].get("assume_role")
        return SessionState(self.timezone_name, role or None)

    def get_connection_params(self) -> dict[str, Any]:
        """Return the arguments for psycopg.connect(), with the hosts of the whole cluster."""
        if self.settings_dict["OPTIONS"].get("pool"):
            raise ImproperlyConfigured(
                f'DATABASES[{self.alias!r}]: OPTIONS["pool"] is for Django\'s own backend; with '
                'this one, set the sizes in OPTIONS["hasql"]["pool_factory_kwargs"]'
            )
        if self.settings_dict["OPTIONS"].get("service"):
            raise ImproperlyConfigured(
                f'DATABASES[{self.alias!r}]: hasql does not read the file of OPTIONS["service"]; '
                "name the hosts in HOST"
            )
        parameters: dict[str, Any] = super().get_connection_params()
        parameters.pop("hasql", None)
        if self.alias == NO_DB_ALIAS:  # the alias that creates and drops databases
            parameters.setdefault("target_session_attrs", "read-write")
        return parameters

    @async_unsafe
    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection[Any]:
        """Acquire a connection from the pool manager, and set on it what this alias asks for."""
        if self.alias == NO_DB_ALIAS:
            connection: Connection[Any] = super().get_new_connection(conn_params)
            return connection
        if self._lent is not None:  # connect() was called again: free the connection held so far
            self._give_back()
        # The router sends a read to a replica that can serve now. The replica may be lost before
        # the read arrives, so the read may fall back to the master.
        falls_back = is_read_by_router(self.alias)
        acquire = AcquireSettings.of(self.settings_dict, self.alias, falls_back=falls_back)
        deadline = monotonic() + acquire.timeout
        while True:
            try:
                lent = self._shared(conn_params).lend(acquire, max(0.0, deadline - monotonic()))
            except PoolManagerClosedError:
                continue  # the manager was closed to drop the database: take the next manager
            except NotAvailableError as error:
                raise psycopg.OperationalError(str(error)) from error
            try:
                self._prepare(lent.connection, conn_params)
            except BaseException as error:
                lent.give_back()
                # The connection was lost before any statement of the application ran on it, so
                # another one can be tried.
                if isinstance(error, psycopg.OperationalError) and lent.connection.broken:
                    continue
                raise
            self._attach(lent)
            return lent.connection

    def _prepare(self, connection: Connection[Any], parameters: Mapping[str, Any]) -> None:
        """Set what may differ between aliases; only a time zone or a role costs a round trip."""
        connection.autocommit = True
        connection.isolation_level = self._isolation_level()
        connection.read_only = connection.deferrable = None
        connection.cursor_factory = parameters["cursor_factory"]
        connection.row_factory = parameters.get("row_factory", tuple_row)
        connection.prepare_threshold = parameters["prepare_threshold"]
        self._session_state.set_on(connection)

    def _isolation_level(self) -> psycopg.IsolationLevel | None:
        """Return the level that OPTIONS names, or None for the server's default."""
        self.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        given = self.settings_dict["OPTIONS"].get("isolation_level")
        if given is None:
            return None
        try:
            level = self.isolation_level = psycopg.IsolationLevel(given)
        except ValueError:
            raise ImproperlyConfigured(
                f"Invalid transaction isolation level {given} specified. Use one of the "
                "psycopg.IsolationLevel values."
            ) from None
        return level

    def init_connection_state(self) -> None:
        """Leave the connection in the state that `get_new_connection` has prepared."""
        if self._lent is None:
            super().init_connection_state()
        else:
            BaseDatabaseWrapper.init_connection_state(self)

    def ensure_timezone(self) -> bool:
        """Apply a changed time zone to the current connection, if there is one.

        Other connections get it when they are acquired.
        """
        if self.connection is None:
            return False
        return self._session_state.set_on(self.connection)

    # Holding a connection, and giving it back

    def _attach(self, lent: LentConnection) -> None:
        self._lent = lent
        _holders.add(self)
        # A thread may end without closing its connection: then the finalizer gives it back.
        abandoned.watch()
        self._finalizer = finalize(self, abandoned.add, lent)
        self._finalizer.atexit = False

    def _detach(self) -> LentConnection | None:
        lent, self._lent = self._lent, None
        _holders.discard(self)
        if self._finalizer is not None:
            self._finalizer.detach()
        return lent

    def create_cursor(self, name: str | None = None) -> Any:
        """Create a cursor that will be closed when the lease ends."""
        cursor = super().create_cursor(name)
        if self._lent is not None:
            self._lent.cursors.add(cursor)
        return cursor

    def close_if_health_check_failed(self) -> None:
        """Close for good a connection that fails its check, so that it is not lent again."""
        self._is_under_check = True
        try:
            super().close_if_health_check_failed()
        finally:
            self._is_under_check = False

    def _close(self) -> None:
        if self._lent is None:
            super()._close()  # type: ignore[misc]  # meant for backends to override, but not in the stubs
        else:
            self._give_back()

    def _give_back(self) -> None:
        lent = self._detach()
        self.connection = None  # from now on the connection may belong to another lease
        if lent is None:
            return
        with self.wrap_database_errors:
            if self._is_under_check:
                lent.connection.close()
            lent.give_back()

    @property
    def _no_longer_fits(self) -> bool:
        """Whether the connection can no longer be used, as `LentConnection.still_fits` tells."""
        return self._lent is not None and not self._lent.still_fits

    def _drop_inherited(self) -> None:
        """Drop the connection in a child that was just forked: it belongs to the parent."""
        self._detach()
        self.connection = None
        self.run_on_commit = []
        if self.in_atomic_block:  # the transaction cannot go on in the child
            self.closed_in_transaction = self.needs_rollback = True


#: The wrappers that hold a connection.
_holders: WeakSet[LeasingWrapper] = WeakSet()


def _drop_inherited() -> None:
    for wrapper in tuple(_holders):
        wrapper._drop_inherited()  # noqa: SLF001  # its own


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_inherited)
