"""The class of sessions that route themselves: the application's class, with hooks added."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from hasql._adapters.sqlalchemy.replica_checks import watch_writing
from hasql._adapters.sqlalchemy.replica_values import note_loaded, watch_loading
from hasql._adapters.sqlalchemy.session_route import ROUTE_OPTION, Asked
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import InstanceState, ORMExecuteState, SessionTransaction

    from hasql._adapters.sqlalchemy.session_route import SessionRoute

__all__ = ("routed",)

#: The argument of `get_bind` that holds an `Asked`.
_ASKED = "hasql_asked"
#: The options of results whose rows are fetched little by little, from a server-side cursor.
_STREAMING = {"stream_results", "yield_per"}
_ROUTES = (None, "master", "replica")


class _Routed(Session):
    """Mixed into a class of sessions. The maker of a session gives it its route."""

    hasql_route: SessionRoute

    def get_bind(
        self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **kwargs: Any
    ) -> Engine | Connection:
        """Return where a statement is executed; see `Session.get_bind`."""
        if bind is not None:  # given for this statement by the application
            return super().get_bind(mapper, clause=clause, bind=bind, **kwargs)
        asked: Asked | None = kwargs.get(_ASKED)
        if clause is None and asked is not None:
            clause = asked.statement()
        found: Connection | Engine
        found = self.hasql_route.bind_for(self, clause, asked)
        return found

    def invalidate(self) -> None:
        """Close the session, and have its connection discarded; see `Session.invalidate`."""
        if self.in_transaction() and (connection := self.hasql_route.connection) is not None:
            connection.invalidate()
        self.close()

    def bulk_save_objects(self, objects: Iterable[object], *args: Any, **kwargs: Any) -> None:
        """Save objects; see `Session.bulk_save_objects`."""
        saved = [*objects]
        self.hasql_route.check(self, saved)
        super().bulk_save_objects(saved, *args, **kwargs)


@cache
def routed(class_: Any) -> type[Any]:
    """Return a subclass whose sessions route themselves.

    Raises ConfigurationError if the class has a `get_bind` of its own.
    """
    if class_.get_bind is not Session.get_bind:
        raise ConfigurationError(
            f"{class_.__name__} has a get_bind of its own, so hasql cannot route its sessions: "
            'remove get_bind, or use route="explicit"'
        )
    watch_loading(_reads_replica)
    watch_writing(_is_routed)
    made = type(class_.__name__, (_Routed, class_), {"__doc__": class_.__doc__})
    event.listen(made, "do_orm_execute", _on_execute)
    event.listen(made, "loaded_as_persistent", _on_load, raw=True)
    event.listen(made, "before_flush", _on_flush)
    event.listen(made, "after_transaction_end", _on_transaction_end)
    return made


def _on_execute(state: ORMExecuteState) -> None:
    options = state.execution_options
    wanted = options.get(ROUTE_OPTION)
    if wanted not in _ROUTES:
        msg = f'the execution option {ROUTE_OPTION} must be "master" or "replica", not {wanted!r}'
        raise ConfigurationError(msg)
    if state.session.hasql_route.on_master:  # type: ignore[attr-defined]  # as made above
        return
    streams = not options.keys().isdisjoint(_STREAMING)
    state.bind_arguments[_ASKED] = Asked(wanted, streams, [state])
    # Other listeners may replace the statement, and SQLAlchemy would still pass this one.
    state.bind_arguments.pop("clause", None)
    if state.is_select and not streams:
        # Make objects from all rows at once, as SQLAlchemy does with asyncio. If they were made
        # after the session has moved, their values would be taken for the master's.
        state.update_execution_options(prebuffer_rows=True)


def _on_load(session: Any, state: InstanceState[Any]) -> None:
    if session.hasql_route.reads_replica:
        note_loaded(state)


def _reads_replica(session: Any) -> bool:
    route: SessionRoute | None = getattr(session, "hasql_route", None)
    return route is not None and route.reads_replica


def _is_routed(session: Session | None) -> bool:
    return isinstance(session, _Routed)


def _on_flush(session: Any, *_: object) -> None:
    route: SessionRoute = session.hasql_route
    route.check_before_flush(session)


def _on_transaction_end(session: Any, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        route: SessionRoute = session.hasql_route
        route.end_transaction()
