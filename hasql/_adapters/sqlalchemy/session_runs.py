"""The session of a unit of work: it uses the connection of `run`, and `run` ends it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hasql._adapters.sqlalchemy.replica_binds import RunTransaction, lend
from hasql._adapters.sqlalchemy.session_route import RouteRules, SessionRoute

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from hasql._adapters.sqlalchemy.reads import ProvableReads

__all__ = ("AttemptLeases", "ReplicaFirstLeases", "RunPlan", "note_commit", "prepare_commit")


class AttemptLeases:
    """Gives a session the connection of an attempt, which is on one server at a time.

    Args:
        attempt: The attempt, of a task or a thread.
        connection: Returns SQLAlchemy's own connection that the attempt has.
        exchange: Moves the attempt to the master.
    """

    def __init__(
        self, attempt: Any, connection: Callable[[], Connection], exchange: Callable[[], object]
    ) -> None:
        self._attempt = attempt
        self._connection = connection
        self._exchange = exchange
        self._is_over = False

    def route(self, reads: ProvableReads) -> SessionRoute:
        """Make the route of the attempt's session."""
        return SessionRoute(RouteRules(reads, self, not self._attempt.may_write), _AttemptLease)

    def bind(self) -> None:
        """Prepare the connection for a session that stays where it is."""
        self.lend(self._connection(), lambda: True, replica=False)

    def end(self) -> None:
        """Let the session end its transaction without a word to the server from now on."""
        self._is_over = True

    # What a `SessionRoute` calls

    def acquire(self, lease: _AttemptLease) -> Connection:
        """Return the attempt's connection; move the attempt to the master first if need be."""
        if lease.replica:
            self._attempt.has_read = True
        if not lease.replica and not self._attempt.may_write:
            self._exchange()
        return self._connection()

    def give_back(self, lease: _AttemptLease) -> None:
        """Do nothing: the attempt gives its connection back."""

    def lend(self, connection: Connection, is_leased: Callable[[], bool], *, replica: bool) -> None:
        """Wrap the session's transaction, so that the session cannot commit it."""
        del replica
        lend(connection, partial(RunTransaction, is_leased=lambda: self._goes_on(is_leased)))

    def _goes_on(self, is_leased: Callable[[], bool]) -> bool:
        return not self._is_over and is_leased()


class _AttemptLease:
    """Stands for a lease: says which server a route asks for."""

    def __init__(self, *, replica: bool) -> None:
        self.replica = replica


@dataclass(frozen=True, slots=True)
class RunPlan:
    """How the attempts of one run get what they need."""

    #: Makes the lease of the next attempt, given the acquire's timeout in seconds.
    acquire: Callable[[float], Any]
    #: Makes a lease of the master, for an attempt that moves there.
    lease_master: Callable[[float], Any]
    #: The arguments of the sessions.
    kwargs: dict[str, Any]
    #: The class of sessions that route themselves; None: they stay where they are.
    routed_class: type[Any] | None
    reads: ProvableReads


class ReplicaFirstLeases:
    """Makes the leases of a run's attempts: the first one reads, the others are the master's.

    Args:
        lease_replica: Makes a lease to read by, given its timeout in seconds; None if there is no
            replica.
        lease_master: Makes a lease of the master, given its timeout in seconds.
    """

    def __init__(
        self, lease_replica: Callable[[float], Any], lease_master: Callable[[float], Any]
    ) -> None:
        self._lease_replica = lease_replica
        self._lease_master = lease_master
        self._is_first = True

    def __call__(self, seconds: float) -> Any:
        """Make the lease of the next attempt."""
        first, self._is_first = self._is_first, False
        return (self._lease_replica(seconds) if first else None) or self._lease_master(seconds)


def prepare_commit(session: Session) -> None:
    """Tell the session's listeners that it commits, and write all that is to be committed."""
    session.dispatch.before_commit(session)
    session.flush()


def note_commit(session: Session) -> None:
    """Tell the session and its listeners that all is committed."""
    session.dispatch.after_commit(session)
    if session.expire_on_commit:
        session.expire_all()
