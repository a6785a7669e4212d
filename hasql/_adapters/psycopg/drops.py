"""What a pool of psycopg's tells of connections that are dropped, for tasks and threads alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from hasql.driver.destinations import Destinations

__all__ = ("TellsOfDrops",)


class TellsOfDrops:
    """Mixed into the adapter of such a pool.

    Nobody but the application and the core has a connection that is lent. So that nothing else
    keeps it alive, it is known by its `pgconn`.
    """

    _opened: Any  # which has `dropped`
    destinations: Destinations
    is_closed: Callable[[Any], bool]

    def key(self, connection: Any) -> Hashable | None:
        """Return what stays the same of it from one lease to the next."""
        key: Hashable = connection.pgconn
        return None if self.is_closed(connection) else key

    def _address_of(self, connection: Any) -> str | None:
        return self.destinations.address_of(connection.pgconn)

    def watch_drops(self, dropped: Callable[[int, Callable[[], Any]], bool]) -> bool:
        """Have the connections tell when they are collected."""
        self._opened.dropped = dropped
        return True
