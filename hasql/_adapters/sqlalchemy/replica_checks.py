"""What becomes of a session's objects when it moves to the master."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, inspect, select, tuple_
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.interfaces import ONETOMANY
from sqlalchemy.sql import ClauseElement

from hasql._adapters.sqlalchemy.replica_locks import is_lockable, locks
from hasql._adapters.sqlalchemy.replica_values import columns_of, forget, shown_by_replica
from hasql.errors import StaleReadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Column, Connection
    from sqlalchemy.orm import InstanceState, Session
    from sqlalchemy.types import TypeEngine

__all__ = ("check_on_master", "expire_clean", "to_be_written", "watch_writing")

#: How many rows are read again at a time.
_BATCH = 500


def to_be_written(session: Session) -> set[InstanceState[Any]]:
    """Return the objects that the next flush may change or delete, as far as they are known now."""
    changed = [*session.dirty, *session.deleted]
    found = {inspect(each) for each in changed}
    for each in (*changed, *session.new):
        found.update(_moved_by(inspect(each)))
    return found


def _moved_by(state: InstanceState[Any]) -> Iterator[InstanceState[Any]]:
    """Yield the objects that are written because they joined or left a changed relationship."""
    for relation in state.mapper.relationships:
        if relation.viewonly or relation.key not in state.committed_state:
            continue
        history = state.attrs[relation.key].history
        moved = [*(history.added or ()), *(history.deleted or ())]
        if relation.direction is not ONETOMANY:
            moved = [*(history.deleted or ())] if relation.cascade.delete_orphan else []
        for each in moved:
            if each is not None and (other := inspect(each)).key is not None:
                yield other


def expire_clean(session: Session, kept: set[InstanceState[Any]]) -> None:
    """Expire all objects that a flush will not write, except their primary keys.

    They are loaded anew when they are next used. Of the objects in `kept`, only the relationships
    that were not changed expire.
    """
    for state in list(session.identity_map.all_states()):
        instance = state.obj()
        if instance is None:
            continue
        mapper = state.mapper
        keys = state.dict.keys() - state.committed_state.keys()
        if state in kept:
            keys &= {*mapper.relationships.keys()}
        else:
            keys &= {*mapper.attrs.keys()}
            keys -= {mapper.get_property_by_column(each).key for each in mapper.primary_key}
            forget(state)
        if keys:
            # Given names, SQLAlchemy expires nothing else, which might have been changed.
            session.expire(instance, keys)


def check_on_master(connection: Connection, states: Iterable[InstanceState[Any]]) -> None:
    """Lock the rows of objects that a replica has shown, and compare their values.

    Args:
        connection: The connection to the master, in the session's transaction.
        states: The objects.

    Raises:
        StaleReadError: The master has another value in a column that was read, or no such row.
    """
    of_mapper: dict[Mapper[Any], list[InstanceState[Any]]] = {}
    for state in states:
        if state.key is not None and shown_by_replica(state):
            of_mapper.setdefault(state.mapper, []).append(state)
    for mapper in sorted(of_mapper, key=lambda each: each.class_.__qualname__):
        # In order, so that transactions which lock the same rows do not wait for each other.
        found = sorted(of_mapper[mapper], key=lambda each: repr(each.identity))
        for start in range(0, len(found), _BATCH):
            _check_some(connection, mapper, found[start : start + _BATCH])


@cache
def watch_writing(is_routed: Callable[[Session | None], bool]) -> None:
    """From now on, also check each object that a flush writes but `to_be_written` did not know.

    Other listeners to the flush may have changed it since.

    Args:
        is_routed: Tells whether a session routes itself.
    """
    for name in ("before_update", "before_delete"):
        event.listen(Mapper, name, partial(_on_write, is_routed), raw=True)


def _on_write(
    is_routed: Callable[[Session | None], bool],
    _: Mapper[Any],
    connection: Connection,
    state: InstanceState[Any],
) -> None:
    # Called for each object that any session writes, so the cheap checks come first.
    if "info" in state.__dict__ and shown_by_replica(state) and is_routed(state.session):
        check_on_master(connection, [state])


def _check_some(
    connection: Connection, mapper: Mapper[Any], states: Sequence[InstanceState[Any]]
) -> None:
    columns = columns_of(mapper)
    shown = [key for key in columns if any(key in shown_by_replica(state) for state in states)]
    chosen = tuple_(*mapper.primary_key).in_([state.identity for state in states])
    query = (
        select(*mapper.primary_key, *(columns[key] for key in shown))
        .select_from(mapper.persist_selectable)
        .where(chosen)
        .order_by(*mapper.primary_key)
    )
    if is_lockable(mapper.persist_selectable):
        query = query.with_for_update()
    else:
        # What is read after locking has been committed, and does not change any more.
        for lock in locks(mapper, chosen):
            connection.execute(lock)
    width = len(mapper.primary_key)
    rows = {tuple(row[:width]): row[width:] for row in connection.execute(query)}
    for state in states:
        row = rows.get(tuple(state.identity or ()))
        if row is None:
            raise _stale(state, "has no such row")
        if differing := [*_differing(state, zip(shown, row, strict=True), columns)]:
            raise _stale(state, f"has different values for {', '.join(differing)}")
        forget(state)


def _differing(
    state: InstanceState[Any], row: Iterable[tuple[str, Any]], columns: Mapping[str, Column[Any]]
) -> Iterator[str]:
    """Yield the attributes that the replica has shown with another value than the master has."""
    shown = shown_by_replica(state)
    for key, value in row:
        # The master computes an expression, from its own values.
        if key not in shown or isinstance(state.dict.get(key), ClauseElement):
            continue
        if not _same(columns[key].type, shown[key], value):
            yield key


def _same(of_type: TypeEngine[Any], one: Any, other: Any) -> bool:
    if one is other or (one != one and other != other):  # noqa: PLR0124  # NaN
        return True
    same = of_type.compare_values(one, other)
    # Arrays of numbers are compared element by element.
    return bool(same.all() if hasattr(same, "all") else same)


def _stale(state: InstanceState[Any], what: str) -> StaleReadError:
    identity = ", ".join(map(repr, state.identity or ()))
    return StaleReadError(
        f"{state.class_.__name__}({identity}) was read on a replica, and the master {what}: begin "
        "again with rollback(), or read on the master what you are going to change"
    )
