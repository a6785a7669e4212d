"""The request of an acquire to a queue pool."""

from __future__ import annotations

from threading import local
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from hasql.driver.time_left import TimeLeft

__all__ = ("NothingReadyError", "PoolRequest", "RequestingThread", "Taking")

_T = TypeVar("_T")


class NothingReadyError(Exception):
    """The pool asks for a connection, and none is ready. It never leaves the adapter."""


class Taking(NamedTuple, Generic[_T]):
    """How to take an object from a pool that contains a connection of the driver's."""

    #: Asks the pool.
    take: Callable[[], _T]
    #: Finds the driver's connection in what the pool has given.
    raw_of: Callable[[_T], Any]
    #: Gives an object back whose connection is dead.
    drop: Callable[[_T], None]


class PoolRequest:
    """One acquire, while it asks the pool."""

    __slots__ = ("error", "preparing", "time_left")

    def __init__(self, time_left: TimeLeft) -> None:
        self.time_left = time_left
        #: Why no connection could be opened for it.
        self.error: Exception | None = None
        #: The driver's connections on which listeners or pings have run for it.
        self.preparing: tuple[Any, ...] = ()


class RequestingThread(local):
    """What belongs to the thread that asks a pool."""

    #: The request of that thread; None: the application itself asks the pool.
    request: PoolRequest | None = None
