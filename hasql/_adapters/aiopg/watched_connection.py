"""Stands in for a leased connection of aiopg's pool, so that hasql notices when it is dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiopg

if TYPE_CHECKING:
    from collections.abc import Callable

    Dropped = Callable[[int, Callable[[], Any]], bool]

__all__ = ("SlotLendingMixin", "WatchedConnection", "ignore_drop")


def ignore_drop(identity: int, revive: Callable[[], Any], /) -> bool:
    """Stand in for the function that is told of dropped connections, until there is one."""
    del identity, revive
    return False


class WatchedConnection(aiopg.Connection):
    """A second object for a connection; both objects share all their state.

    aiopg's pool keeps the first object alive while it is in use. Only the application refers to the
    second; hasql's lease book refers to it weakly.
    """

    __slots__ = ("_dropped", "slot")

    def __init__(self, slot: aiopg.Connection, dropped: Dropped) -> None:
        self.slot = slot
        self._dropped = dropped
        self.__dict__ = slot.__dict__

    def __del__(self) -> None:
        """Report the drop; the code that takes the connection back closes it, if necessary."""
        self._dropped(id(self), lambda: self)


class SlotLendingMixin:
    """Mixed into the adapter of a pool: decides which object the user gets for a slot.

    That is the slot itself, unless drops are watched, or a subclass makes something else of it.
    """

    #: Called for each object that is dropped.
    _dropped: Dropped = staticmethod(ignore_drop)

    def watch_drops(self, dropped: Dropped) -> bool:
        """From now on, hand out objects that report when they are dropped."""
        self._dropped = dropped
        return True

    def inner_of(self, connection: Any) -> Any:
        """Return the aiopg connection inside an object that was handed out, or inside a slot.

        None: the user has closed the object that was handed out.
        """
        return connection.slot if type(connection) is WatchedConnection else connection

    def _hand_out(self, slot: Any) -> Any:
        watched = self._dropped is not ignore_drop
        return WatchedConnection(slot, self._dropped) if watched else slot
