"""Where a session that routes itself is: on a replica, on the master, or on neither."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import inspect
from sqlalchemy.exc import InvalidRequestError

from hasql._adapters.sqlalchemy.replica_binds import Leases, SameEngine
from hasql._adapters.sqlalchemy.replica_checks import (
    check_on_master,
    expire_clean,
    to_be_written,
)
from hasql._adapters.sqlalchemy.replica_values import shown_by_replica

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import ORMExecuteState, Session

    from hasql._adapters.sqlalchemy.reads import ProvableReads

__all__ = (
    "ROUTE_OPTION",
    "Asked",
    "RouteRules",
    "SessionRoute",
    "is_routed",
)

#: The execution option by which a statement says where it runs.
ROUTE_OPTION = "hasql_route"
#: The levels at which a session may change servers. At higher ones, what a statement has seen holds
#: until the transaction ends; with AUTOCOMMIT, the rows checked on the master are not locked.
_ROUTED_LEVELS = {"READ COMMITTED", "READ UNCOMMITTED"}


def is_routed(options: Mapping[str, Any]) -> bool:
    """Tell whether a session may route itself with these options of its own, or of an engine."""
    level = options.get("isolation_level")
    level = (options.get("execution_options") or {}).get("isolation_level", level)
    return level is None or level.upper().replace("_", " ") in _ROUTED_LEVELS


@dataclass(frozen=True, slots=True)
class RouteRules:
    """What all sessions of one maker have in common."""

    reads: ProvableReads
    leases: Leases
    #: Whether a transaction may begin on a replica.
    starts_on_replica: bool


class Asked(NamedTuple):
    """What a statement that is about to be executed asks for."""

    #: Where to run; None: it does not say.
    route: str | None
    #: Whether its rows are fetched little by little.
    streams: bool
    #: The state of the execution. `statement` takes it out, because it refers to this in turn.
    state: list[ORMExecuteState]

    def statement(self) -> Any:
        """Return the statement that is executed in the end; None if asked before."""
        return self.state.pop().statement if self.state else None


class SessionRoute:
    """Leases one connection at a time for one session: a replica's or the master's.

    Args:
        rules: The rules of the maker of the session.
        acquire: Makes a lease, on a `replica` or not; None if there is no replica to read from.
    """

    def __init__(self, rules: RouteRules, acquire: Callable[..., Any]) -> None:
        self._rules = rules
        self._acquire = acquire
        #: The lease, if there is one.
        self._lease: Any = None
        #: What `get_bind` returns to the session: the connection, or a `SameEngine` with it.
        self._bind: Any = None
        self._connection: Any = None
        self._replicas_engine: Engine | None = None
        #: Whether the current transaction is on the master, or has left the replica to go there.
        self._moved = False
        #: Whether a replica's rows may become objects after that, even in another transaction.
        self._streamed = False
        self._ended = False

    @property
    def on_master(self) -> bool:
        """Whether all statements go to the master until the transaction ends."""
        return self._moved

    def bind_for(self, session: Session, statement: Any, asked: Asked | None) -> Any:
        """Return the connection for a statement; None: for what the session writes by itself."""
        if self._ended:
            raise InvalidRequestError("the block of this session has ended: make another session")
        if (
            self._moved
            or not self._rules.starts_on_replica
            or session.in_nested_transaction()
            or not self._may_read(statement, asked)
        ):
            return self.master(session)
        self._streamed = self._streamed or (asked is not None and asked.streams)
        return self._replica(session)

    def _may_read(self, statement: Any, asked: Asked | None) -> bool:
        if statement is None:
            return False
        if asked is not None and asked.route is not None:
            return asked.route == "replica"
        return self._rules.reads.is_read(statement)

    def _replica(self, session: Session) -> Any:
        if self._lease is None:
            lease = self._acquire(replica=True)
            if lease is None:
                return self.master(session)
            connection = self._rules.leases.acquire(lease)
            self._lease, self._bind, self._connection = lease, connection, connection
            self._replicas_engine = connection.engine  # a lost connection may get another engine
            if connection.default_isolation_level not in _ROUTED_LEVELS:
                return self.master(session)
            self._rules.leases.lend(connection, partial(self._has, lease), replica=True)
        return self._bind

    def _has(self, lease: Any) -> bool:
        return self._lease is lease

    def master(self, session: Session) -> Any:
        """Give the replica's connection back, if there is one, and return one to the master."""
        if not self._moved:
            self._moved = True
            if self._lease is not None:
                expire_clean(session, to_be_written(session))
                self._leave()
        if self._lease is None:
            lease = self._acquire(replica=False)
            connection = self._rules.leases.acquire(lease)
            self._lease, self._bind, self._connection = lease, connection, connection
            self._rules.leases.lend(connection, partial(self._has, lease), replica=False)
            if connection.engine is self._replicas_engine:
                self._bind = SameEngine(connection, self._use)
        return self._bind

    def _use(self, connection: Connection) -> None:
        self._bind = connection

    @property
    def reads_replica(self) -> bool:
        """Whether what is read now is a replica's, or may be: drivers fetch rows in advance."""
        return self._streamed or (self._lease is not None and not self._moved)

    @property
    def connection(self) -> Connection | None:
        """The connection that is leased now."""
        return None if self._lease is None else self._connection

    def check(self, session: Session, objects: Iterable[object]) -> None:
        """Check objects that are saved without a flush, as `check_before_flush` does."""
        states = [inspect(each) for each in objects]
        if any(map(shown_by_replica, states)):
            check_on_master(session.connection(), states)

    def check_before_flush(self, session: Session) -> None:
        """Move to the master, and check the objects to be written that a replica has shown.

        Raises StaleReadError if the master has other values.
        """
        states = to_be_written(session)
        check_on_master(session.connection(), states)

    def _leave(self) -> None:
        lease, self._lease, self._bind, self._connection = self._lease, None, None, None
        if lease is not None:
            self._rules.leases.give_back(lease)

    def end_transaction(self) -> None:
        """Give back the connection that is leased. The next transaction begins anew."""
        self._moved, self._replicas_engine = False, None
        self._leave()

    def end(self) -> Any:
        """Refuse further statements, and return the lease that must still be given back, if any."""
        self._ended = True
        lease, self._lease = self._lease, None
        return lease
