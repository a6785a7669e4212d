"""What an acquire asks a queue pool for."""

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
    """How something is taken from a pool that has a connection of the driver's in it."""

    #: Asks the pool.
    take: Callable[[], _T]
    #: Finds the driver's connection in what the pool has given.
    raw_of: Callable[[_T], Any]
    #: Gives one back that is dead.
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
    """The thread in which a pool is asked."""

    #: None: by the application itself.
    request: PoolRequest | None = None
