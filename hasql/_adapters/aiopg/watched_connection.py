"""What is lent in place of a connection of aiopg's pool, so that it is known when it is dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiopg

if TYPE_CHECKING:
    from collections.abc import Callable

    Dropped = Callable[[int, Callable[[], Any]], bool]

__all__ = ("LendsSlots", "WatchedConnection", "nothing_is_lent")


def nothing_is_lent(identity: int, revive: Callable[[], Any], /) -> bool:
    """Stand in for who is told of connections that are dropped."""
    del identity, revive
    return False


class WatchedConnection(aiopg.Connection):
    """A second object of one connection: they have all their state in common.

    aiopg's pool keeps the first alive as long as it is in use. This one nobody has but the
    application, and hasql's book weakly.
    """

    __slots__ = ("_dropped", "slot")

    def __init__(self, slot: aiopg.Connection, dropped: Dropped) -> None:
        self.slot = slot
        self._dropped = dropped
        self.__dict__ = slot.__dict__

    def __del__(self) -> None:
        """Tell of it; the connection is closed, if it is, by who takes it back."""
        self._dropped(id(self), lambda: self)


class LendsSlots:
    """Mixed into the adapter of a pool: what the user gets for a slot.

    That is the slot itself, unless it is to be known when it is dropped, or a subclass makes
    something else of it.
    """

    #: Told of what is dropped.
    _dropped: Dropped = staticmethod(nothing_is_lent)

    def watch_drops(self, dropped: Dropped) -> bool:
        """Lend what tells when it is dropped, from now on."""
        self._dropped = dropped
        return True

    def inner_of(self, connection: Any) -> Any:
        """Return aiopg's connection in what was handed out, or in a slot.

        None: the user has closed what was handed out.
        """
        return connection.slot if type(connection) is WatchedConnection else connection

    def _hand_out(self, slot: Any) -> Any:
        watched = self._dropped is not nothing_is_lent
        return WatchedConnection(slot, self._dropped) if watched else slot
