"""Values that replicas have shown of objects: kept until the master shows them or they expire."""

from __future__ import annotations

from copy import deepcopy
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, event
from sqlalchemy.orm import Mapper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy.orm import InstanceState, QueryContext, Session

__all__ = ("columns_of", "forget", "note_loaded", "shown_by_replica", "watch_loading")

#: The key in the `info` of an object's state. SQLAlchemy pickles that with the object.
_INFO = "hasql_shown_by_replica"
#: The key in the `info` of a class.
_COLUMNS = "hasql_columns"
_NOT_LOADED = object()


def shown_by_replica(state: InstanceState[Any]) -> dict[str, Any]:
    """Return the values that a replica last showed of an object, by attribute."""
    shown: dict[str, Any] = state.info.get(_INFO, {})
    return shown


def forget(state: InstanceState[Any]) -> None:
    """Forget the values that a replica has shown of an object."""
    state.info.pop(_INFO, None)


def columns_of(mapper: Mapper[Any]) -> Mapping[str, Column[Any]]:
    """Return the table columns that a mapper loads, by attribute."""
    info = mapper.class_manager.info
    found: Mapping[str, Column[Any]] | None = info.get(_COLUMNS)
    if found is None:
        candidates = {each.key: each.columns[0] for each in mapper.column_attrs}
        found = {key: each for key, each in candidates.items() if isinstance(each, Column)}
        info[_COLUMNS] = found
    return found


@cache
def watch_loading(reads_replica: Callable[[Session], bool]) -> None:
    """From now on, take note of attributes that are loaded later than their object.

    SQLAlchemy reports that only to listeners to the objects of all sessions.

    Args:
        reads_replica: Tells whether a session is on a replica.
    """
    on_refresh = partial(_on_refresh, reads_replica)
    for name, listener in (("refresh", on_refresh), ("expire", _on_expire)):
        event.listen(Mapper, name, listener, raw=True)


def note_loaded(state: InstanceState[Any]) -> None:
    """Take note of an object that a replica has shown."""
    columns = state.manager.info.get(_COLUMNS) or columns_of(state.mapper)
    state.info[_INFO] = _values(state, columns)


def _on_refresh(
    reads_replica: Callable[[Session], bool],
    state: InstanceState[Any],
    context: QueryContext | None,
    names: Iterable[str] | None,
) -> None:
    if context is None:
        # These were not loaded: SQLAlchemy has computed them as an UPDATE does, from the values
        # that the object had before.
        return
    if reads_replica(context.session):
        columns = columns_of(state.mapper)
        keys = columns if names is None else columns.keys() & names
        state.info.setdefault(_INFO, {}).update(_values(state, keys))
    else:
        _on_expire(state, names)


def _on_expire(state: InstanceState[Any], names: Iterable[str] | None) -> None:
    if "info" not in state.__dict__:  # reading `state.info` would make it
        return
    if names is None:
        forget(state)
    elif shown := state.info.get(_INFO):
        for name in names:
            shown.pop(name, None)


def _values(state: InstanceState[Any], keys: Iterable[str]) -> dict[str, Any]:
    # This runs for each object that is loaded, so it is one expression.
    loaded = state.dict
    return {
        key: value if type(value).__hash__ is not None else _kept(value)
        for key in keys
        if (value := loaded.get(key, _NOT_LOADED)) is not _NOT_LOADED
    }


def _kept(value: Any) -> Any:
    """Return a copy of a value that the application may change in place."""
    # Values whose changes SQLAlchemy tracks are of its own subclasses of dict, list and set.
    for plain in (dict, list, set):
        if isinstance(value, plain):
            return deepcopy(plain(value))
    return deepcopy(value)
