"""The connections that one app context has, from the first use to its end."""

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

__all__ = ("ContextLeases", "leases_here", "made_leases_here")

log = logging.getLogger("hasql")

_NAME = "_hasql_leases"
#: A cluster, and whether a replica is meant.
_Key: TypeAlias = "tuple[Cluster, bool]"


class ContextLeases:
    """One connection for each cluster and role, taken at first use.

    Several threads may use it at once, as those of an async view do.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._leases: dict[_Key, ContextLease] = {}
        #: Why connections are lost, which the request is told whenever it asks again.
        self._losses: dict[_Key, BaseException] = {}
        #: What the request has raised, which tells the pool manager of the host.
        self.error: BaseException | None = None
        #: What was being handled at the first use, and is not what ends the app context.
        self.handled = sys.exc_info()[1]

    def connection(self, cluster: Cluster, *, read_only: bool) -> Any:
        """Return the connection; raise why it was lost, if it was."""
        key = cluster, read_only
        with self._lock:
            lease = self._leases.get(key)
            if lease is not None and lease.inherited:
                lease = None  # this process was forked in the midst of a request
            elif lease is not None and not lease.is_out:
                lease = None
                self._leases.pop(key).give_back(None)  # its place may be taken still
            elif lease is not None and lease.lost:
                self.drop_lost(sys.exc_info()[1])
            if (loss := self._losses.get(key)) is not None:
                raise loss
            if lease is None:
                lease = self._leases[key] = cluster.lend(read_only=read_only)
            return lease.connection

    def drop_lost(self, error: BaseException | None) -> None:
        """Give back what is lost, so that its place is free; `error` is what is being handled."""
        with self._lock:
            for key, lease in tuple(self._leases.items()):
                if lease.inherited or not lease.lost:
                    continue
                del self._leases[key]
                made = lease.session.lost_error(
                    f"the connection of this request to cluster {key[0].settings.name!r} was lost; "
                    "what the request has done in its session is gone with it. To go on with "
                    "another one, take it from db.manager()"
                )
                # What the application has caught is raised again; else there is none to be had.
                self._losses[key] = error if isinstance(error, type(made)) else made
                lease.give_back(error)

    def forget_losses(self) -> None:
        """Let a request that comes in the same app context begin anew."""
        with self._lock:
            self._losses.clear()  # with their tracebacks, which lead to the app context

    def commit(self) -> None:
        """Commit all open transactions; where one fails, the rest is rolled back.

        Raises what made it fail, the loss of a connection that had a transaction included.
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
        """Roll all open transactions back. A connection that is lost meanwhile is no error."""
        with self._lock:
            for lease in self._open():
                try:
                    lease.rollback()
                except Exception as error:  # noqa: BLE001  # of the driver
                    log.debug("a rollback failed: %r", error, extra=about("rollback_failed"))
                    with suppress(Exception):
                        lease.session.discard()
            self.drop_lost(sys.exc_info()[1])

    def _open(self) -> Iterator[ContextLease]:
        for lease in tuple(self._leases.values()):
            if not lease.inherited and not lease.lost and lease.open_transaction:
                yield lease

    def give_back(self, error: BaseException | None) -> None:
        """Give all connections back; `error` is what ended their use, if anything did."""
        with self._lock:
            while self._leases:
                _, lease = self._leases.popitem()
                try:
                    lease.give_back(error or self.error)
                except Exception:
                    log.exception("a connection was not given back", extra=about("not_given_back"))
            self._losses.clear()
            self.error = None


def leases_here() -> ContextLeases | None:
    """Return what the current app context has; None: it has asked for nothing."""
    found: ContextLeases | None = g.get(_NAME)
    return found


def made_leases_here() -> ContextLeases:
    """Return what the current app context has, made at its first use."""
    found = leases_here()
    if found is None:
        found = g.setdefault(_NAME, ContextLeases())  # one, if threads of a view come at once
    return found
