"""The connections that an app context holds, from their first use to its end."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeAlias

from flask import g

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.contrib.flask.clusters import Cluster, ContextLease

from hasql.diagnostics import about

__all__ = ("ContextLeases", "current_leases", "current_or_new_leases")

log = logging.getLogger("hasql")

_NAME = "_hasql_leases"
#: A cluster, and whether the connection is to a replica.
_Key: TypeAlias = "tuple[Cluster, bool]"


class ContextLeases:
    """One connection for each cluster and role, acquired at first use.

    Several threads may use this object at once, as those of an async view do.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._leases: dict[_Key, ContextLease] = {}
        #: Why connections were lost; raised whenever the request asks for one of them again.
        self._losses: dict[_Key, BaseException] = {}
        #: The exception of the request; it may tell the pool manager that a host has failed.
        self.error: BaseException | None = None
        #: The exception that was being handled at the first use: it did not end the app context.
        self.handled = sys.exc_info()[1]

    def connection(self, cluster: Cluster, *, read_only: bool) -> Any:
        """Return the connection; if it was lost, raise the reason."""
        key = cluster, read_only
        with self._lock:
            lease = self._leases.get(key)
            if lease is not None and lease.inherited:
                lease = None  # this process was forked in the middle of a request
            elif lease is not None and not lease.is_out:
                lease = None
                self._leases.pop(key).give_back(None)  # it may still count as in use
            elif lease is not None and lease.lost:
                self.drop_lost(sys.exc_info()[1])
            if (loss := self._losses.get(key)) is not None:
                raise loss
            if lease is None:
                lease = self._leases[key] = cluster.lend(read_only=read_only)
            return lease.connection

    def drop_lost(self, error: BaseException | None) -> None:
        """Give lost connections back, so that they no longer count as in use.

        `error` is the exception that is being handled, if any.
        """
        with self._lock:
            for key, lease in tuple(self._leases.items()):
                if lease.inherited or not lease.lost:
                    continue
                del self._leases[key]
                made = lease.session.lost_error(
                    f"the connection of this request to cluster {key[0].settings.name!r} was "
                    "lost; what the request has done in its session is gone with it. To go on "
                    "with another connection, take one from db.manager()"
                )
                # If the application has caught the driver's error, raise that again; otherwise
                # raise the one made here.
                self._losses[key] = error if isinstance(error, type(made)) else made
                lease.give_back(error)

    def forget_losses(self) -> None:
        """Forget lost connections: the next request in the same app context starts afresh."""
        with self._lock:
            self._losses.clear()  # this also frees their tracebacks, which refer to the app context

    def commit(self) -> None:
        """Commit all open transactions; if one commit fails, the remaining ones are rolled back.

        Raises the error of that commit, or the loss of a connection on which the request was a
        transaction.
        """
        with self._lock:
            self.drop_lost(None)
            for (cluster, _), loss in self._losses.items():
                if cluster.settings.in_requests:
                    self.rollback()
                    raise loss
            try:
                for lease in self._open():
                    lease.session.commit()
            except BaseException:
                self.drop_lost(sys.exc_info()[1])
                self.rollback()
                raise

    def rollback(self) -> None:
        """Roll all open transactions back; the loss of a connection meanwhile is not an error."""
        with self._lock:
            for lease in self._open():
                try:
                    lease.rollback()
                except Exception as error:  # noqa: BLE001  # the driver's
                    log.debug("a rollback failed: %r", error, extra=about("rollback_failed"))
                    with suppress(Exception):
                        lease.session.discard()
            self.drop_lost(sys.exc_info()[1])

    def _open(self) -> Iterator[ContextLease]:
        for lease in tuple(self._leases.values()):
            if not lease.inherited and not lease.lost and lease.open_transaction:
                yield lease

    def give_back(self, error: BaseException | None) -> None:
        """Give all connections back; `error` is the exception that ended their use, if any."""
        with self._lock:
            while self._leases:
                _, lease = self._leases.popitem()
                try:
                    lease.give_back(error or self.error)
                except Exception:
                    log.exception("a connection was not given back", extra=about("not_given_back"))
            self._losses.clear()
            self.error = None


def current_leases() -> ContextLeases | None:
    """Return the leases of the current app context, or None if it has not asked for any."""
    found: ContextLeases | None = g.get(_NAME)
    return found


def current_or_new_leases() -> ContextLeases:
    """Return the leases of the current app context; they are made at the first use."""
    found = current_leases()
    if found is None:
        found = g.setdefault(_NAME, ContextLeases())  # several threads get the same one
    return found
