"""What replicas have shown of objects: kept until the master has shown the same, or they expire."""

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

#: Where SQLAlchemy lets others keep something about an object. It is pickled with the object, too.
_INFO = "hasql_shown_by_replica"
#: And about a class.
_COLUMNS = "hasql_columns"
_NOT_LOADED = object()


def shown_by_replica(state: InstanceState[Any]) -> dict[str, Any]:
    """Return the values of the columns that a replica has shown last, by attribute."""
    shown: dict[str, Any] = state.info.get(_INFO, {})
    return shown


def forget(state: InstanceState[Any]) -> None:
    """Take note that the master has the same values."""
    state.info.pop(_INFO, None)


def columns_of(mapper: Mapper[Any]) -> Mapping[str, Column[Any]]:
    """Return the columns of tables that a mapper loads, by attribute."""
    info = mapper.class_manager.info
    found: Mapping[str, Column[Any]] | None = info.get(_COLUMNS)
    if found is None:
        candidates = {each.key: each.columns[0] for each in mapper.column_attrs}
        found = {key: each for key, each in candidates.items() if isinstance(each, Column)}
        info[_COLUMNS] = found
    return found


@cache
def watch_loading(reads_replica: Callable[[Session], bool]) -> None:
    """Take note of attributes that are loaded later, from now on.

    SQLAlchemy tells nobody else of that but who asks for the objects of all sessions.

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
        # Not loaded, but computed by SQLAlchemy as an UPDATE does, of what the object had before.
        return
    if reads_replica(context.session):
        columns = columns_of(state.mapper)
        keys = columns if names is None else columns.keys() & names
        state.info.setdefault(_INFO, {}).update(_values(state, keys))
    else:
        _on_expire(state, names)


def _on_expire(state: InstanceState[Any], names: Iterable[str] | None) -> None:
    if "info" not in state.__dict__:  # else it would be made
        return
    if names is None:
        forget(state)
    elif shown := state.info.get(_INFO):
        for name in names:
            shown.pop(name, None)


def _values(state: InstanceState[Any], keys: Iterable[str]) -> dict[str, Any]:
    # For each object that is loaded, so in one go.
    loaded = state.dict
    return {
        key: value if type(value).__hash__ is not None else _kept(value)
        for key in keys
        if (value := loaded.get(key, _NOT_LOADED)) is not _NOT_LOADED
    }


def _kept(value: Any) -> Any:
    """Return a value as it will still be when the application has changed it in place."""
    # Those that SQLAlchemy tracks changes of are dicts, lists and sets of their own classes.
    for plain in (dict, list, set):
        if isinstance(value, plain):
            return deepcopy(plain(value))
    return deepcopy(value)
