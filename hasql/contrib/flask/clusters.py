"""The clusters of an application: their pool managers, and the connections lent to requests."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from contextlib import ExitStack, suppress
from functools import partial
from importlib import import_module
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakSet

from hasql.contrib.flask.background import BackgroundReturns
from hasql.contrib.flask.driver_sessions import session_class
from hasql.diagnostics import about
from hasql.errors import ConfigurationError, HasqlError, UnknownConnectionError
from hasql.sync.base import BaseSyncPoolManager

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hasql._leasing.thread_lease import ThreadLease
    from hasql.contrib.flask.driver_sessions import DriverSession
    from hasql.contrib.flask.settings import AppSettings, ClusterSettings

__all__ = ("AppClusters", "Cluster", "ContextLease")

log = logging.getLogger("hasql")

_TRUSTED_FOR: Final = 1.0
"""Seconds after its last answer during which a connection is lent without a test round trip.

Even then the driver's pool has checked the socket, and the monitor has probed the host. Only a
connection that something on the network between has forgotten would pass unnoticed, and that takes
minutes.
"""
_EXIT_TIMEOUT: Final = 5.0
"""Seconds that an exiting process waits for threads to give their connections back."""


class ContextLease:
    """A connection to a cluster that a request holds until `give_back`.

    The application may give it back earlier with `putconn`. It is left alone after that, because
    it may belong to another request.
    """

    def __init__(
        self,
        cluster: Cluster,
        manager: BaseSyncPoolManager[Any, Any],
        lease: ThreadLease[Any, Any],
        session: DriverSession,
    ) -> None:
        self.cluster = cluster
        self.session = session
        self._manager = manager
        self._lease = lease
        self._process = os.getpid()
        self._ending = False

    @property
    def connection(self) -> Any:
        """The driver's connection."""
        return self.session.connection

    @property
    def inherited(self) -> bool:
        """Whether this process was forked meanwhile, so that the connection is its parent's."""
        return self._process != os.getpid()

    @property
    def is_out(self) -> bool:
        """Whether the request still holds the connection: a view may have given it back."""
        return _is_out(self._lease, self.session.connection)

    @property
    def lost(self) -> bool:
        """Whether the request still holds the connection, and it is known to be broken."""
        try:
            return self.is_out and self._manager.is_connection_closed(self.connection)
        except UnknownConnectionError:  # it was terminated, or is just being given back
            return False

    @property
    def open_transaction(self) -> bool:
        """Whether the request is one transaction, and that transaction is open now."""
        return self.is_out and self.cluster.settings.in_requests and self.session.in_transaction

    def begin(self) -> None:
        """Set up the connection: one transaction for the request, or autocommit, as configured."""
        session, lease = self.session, self._lease
        session.is_out = partial(_is_out, lease, session.connection)
        session.begin(in_transaction=self.cluster.settings.in_requests)
        lease.before_call = self._give_back_early

    def rollback(self) -> None:
        """Roll the transaction back within `release_timeout`. Raises the driver's error."""
        with self._lease.limited(self.cluster.release_timeout):
            self.session.rollback()

    def give_back(self, error: BaseException | None) -> None:
        """Give the connection back; `error` is the exception that ended the request, if any.

        Another thread resets the connection, which counts as in use until that is done.
        """
        if self.inherited:
            return
        self._ending = True
        if self.cluster.settings.reset and self.is_out and not self.lost:
            self.cluster.returns.submit(partial(self._end, error))
        else:
            self._end(error)

    def _give_back_early(self) -> None:
        """Clean up when the application itself gives the connection back early."""
        if self._ending:
            raise UnknownConnectionError(
                "the end of its request is already giving this connection back"
            )
        self._clean_session()

    def _end(self, error: BaseException | None) -> None:
        try:
            if self.is_out:
                self._clean_session()
        finally:
            self._lease.before_call = None
            kind = None if error is None else type(error)
            self._lease.__exit__(kind, error, None if error is None else error.__traceback__)

    def _clean_session(self) -> None:
        """Restore the session for its next use, or close the connection."""
        session = self.session
        session.unwrap()
        try:
            if not self.lost and session.is_usable:
                with self._lease.limited(self.cluster.release_timeout):
                    if self.cluster.settings.reset:
                        session.reset()
                    else:
                        session.restore()
                self.cluster.note_answer(session)
            elif not self.lost:
                # A statement was interrupted; without a cancel request the server would go on.
                session.cancel()
                session.discard()
        except Exception as failed:  # noqa: BLE001  # the driver or a `configure` raises it
            # The pool manager itself logs the loss of a connection, with its host.
            log.log(
                logging.DEBUG if self.lost else logging.WARNING,
                "cluster %r: a connection was closed, because it could not be reset: %s",
                self.cluster.settings.name,
                self._manager.dsn.hide(repr(failed)),
                extra=about("connection_closed"),
            )
            with suppress(Exception):
                session.discard()


def _is_out(lease: ThreadLease[Any, Any], connection: Any) -> bool:
    return lease.connection is connection and not lease.returning


class Cluster:
    """One cluster of an application, with its pool manager."""

    def __init__(self, settings: ClusterSettings, returns: BackgroundReturns) -> None:
        self.settings = settings
        self.returns = returns
        self._lock = Lock()
        self._manager: BaseSyncPoolManager[Any, Any] | None = self._new_manager()
        self._session_class = _session_class(settings.driver)
        options = settings.options
        self._acquire_timeout: float = options.get("acquire_timeout", 1.0)
        self.release_timeout: float = options.get("release_timeout", 5.0)
        self._configure = (options.get("pool_factory_kwargs") or {}).get("configure")
        #: When each connection last answered, by `monotonic`.
        self._answers: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def reset_after_fork(self) -> None:
        """Replace locks and notes that a child that was just forked has copied from its parent."""
        self._lock = Lock()
        self._answers = WeakKeyDictionary()
        self.returns.reset_after_fork()

    @property
    def manager(self) -> BaseSyncPoolManager[Any, Any]:
        """The pool manager; after `close`, a new one."""
        with self._lock:
            if self._manager is None:
                self._manager = self._new_manager()
            return self._manager

    def _new_manager(self) -> BaseSyncPoolManager[Any, Any]:
        settings = self.settings
        # If the driver's library is missing, this raises an error that names the extra to install.
        pool_manager = import_module(f"hasql.sync.{settings.driver}").PoolManager
        try:
            made: BaseSyncPoolManager[Any, Any] = pool_manager(settings.dsn, **settings.options)
        except TypeError as error:
            msg = f"the options of the cluster {settings.name!r} cannot work: {error}"
            raise ConfigurationError(msg) from error
        return made

    def lend(self, *, read_only: bool) -> ContextLease:
        """Acquire a connection for a request; it is tested unless it has just answered.

        Raises:
            NotAvailableError: No suitable host could serve within `acquire_timeout`.
        """
        manager = self.manager
        deadline = monotonic() + self._acquire_timeout
        while True:
            seconds = max(0.0, deadline - monotonic())
            lease = manager.acquire(read_only=read_only, timeout=seconds)
            connection = lease.__enter__()
            try:
                again = lease.query_after_reset() if self.settings.reset else None
                session = self._session_class(connection, self._configure, again)
                lent = ContextLease(self, manager, lease, session)
                if self._answered_lately(session) or self._answers_now(lent, lease, deadline):
                    lent.begin()
                    return lent
            except BaseException:
                lease.__exit__(*sys.exc_info())
                raise
            lease.__exit__(None, None, None)

    def _answered_lately(self, session: DriverSession) -> bool:
        return monotonic() - self._answers.get(session.raw, float("-inf")) < _TRUSTED_FOR

    def _answers_now(
        self, lent: ContextLease, lease: ThreadLease[Any, Any], deadline: float
    ) -> bool:
        """Test the connection by a round trip; return False if it is broken.

        A silent server gets only half of the time left, so that another connection can be tried.
        """
        try:
            with lease.limited(max(0.0, deadline - monotonic()) / 2):
                lent.session.ask()
        except Exception:
            if lent.lost or lent.session.raw.closed:
                return False
            raise  # the connection works, but the server has refused the statement
        self.note_answer(lent.session)
        return True

    def note_answer(self, session: DriverSession) -> None:
        """Note that the server has just answered on this connection."""
        self._answers[session.raw] = monotonic()

    def close(self, timeout: float) -> None:
        """Close the pool manager; the next use makes a new one."""
        manager = self._let_go()
        if manager is not None:
            manager.close(timeout)

    def drain(self, timeout: float) -> None:
        """Drain the pool manager when the process exits."""
        manager = self._let_go()
        if manager is None:
            return
        try:
            manager.drain(timeout)
        except HasqlError:  # this thread, and maybe others, still has a connection in use
            manager.close(timeout)

    def _let_go(self) -> BaseSyncPoolManager[Any, Any] | None:
        with self._lock:
            manager, self._manager = self._manager, None
        return manager


def _session_class(driver: str) -> type[DriverSession]:
    """Return the session class for a driver whose library is installed."""
    if driver != "sqlalchemy":
        return session_class(driver)
    from hasql.contrib.flask.sqlalchemy_session import SESSION_CLASS

    return SESSION_CLASS


class AppClusters:
    """All clusters of one application; it is stored in ``app.extensions["hasql"]``."""

    def __init__(self, settings: AppSettings) -> None:
        self.settings = settings
        self.returns = BackgroundReturns()
        self.by_name: Mapping[str, Cluster] = {
            name: Cluster(each, self.returns) for name, each in settings.clusters.items()
        }
        _all.add(self)

    def of(self, name: str) -> Cluster:
        """Return a cluster by name. Raises ConfigurationError if there is none of that name."""
        try:
            return self.by_name[name]
        except (KeyError, TypeError):
            known = ", ".join(map(repr, self.by_name))
            raise ConfigurationError(
                f"the application has no cluster {name!r}, only {known}: HASQL_DSN names the "
                "hosts of 'default', HASQL_CLUSTERS those of all others"
            ) from None

    def close(self, timeout: float = 10.0) -> None:
        """Close every pool manager, each within `timeout` seconds."""
        with ExitStack() as closing:
            closing.callback(self.returns.stop)
            for cluster in self.by_name.values():
                closing.callback(cluster.close, timeout)

    def drain(self, timeout: float) -> None:
        """Drain every pool manager, each within `timeout` seconds."""
        with ExitStack() as draining:
            draining.callback(self.returns.stop)
            for cluster in self.by_name.values():
                draining.callback(cluster.drain, timeout)

    def reset_after_fork(self) -> None:
        """In a child that was just forked, replace what was copied from the parent."""
        for cluster in self.by_name.values():
            cluster.reset_after_fork()


_all: WeakSet[AppClusters] = WeakSet()


def _reset_after_fork() -> None:
    for clusters in tuple(_all):
        clusters.reset_after_fork()


def _close_all() -> None:
    """When the process exits, let work in other threads end, and close all connections."""
    for clusters in tuple(_all):
        with suppress(HasqlError):
            clusters.drain(_EXIT_TIMEOUT)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
# The function registered last is called first: this one runs before that of `hasql.sync.base`,
# imported above, which breaks every connection that was not closed.
atexit.register(_close_all)
