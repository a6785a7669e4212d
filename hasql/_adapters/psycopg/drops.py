"""How a psycopg pool reports leased connections that are dropped, for tasks and threads alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from hasql.driver.destinations import Destinations

__all__ = ("DropReportMixin",)


class DropReportMixin:
    """Mixed into the adapter of a psycopg pool.

    Only the application and the core refer to a leased connection. The adapter knows a connection
    by its `pgconn`, so that it does not keep the connection alive.
    """

    _opened: Any  # which has `dropped`
    destinations: Destinations
    is_closed: Callable[[Any], bool]

    def key(self, connection: Any) -> Hashable | None:
        """Return what stays the same of a connection from one lease to the next."""
        key: Hashable = connection.pgconn
        return None if self.is_closed(connection) else key

    def _address_of(self, connection: Any) -> str | None:
        return self.destinations.address_of(connection.pgconn)

    def watch_drops(self, dropped: Callable[[int, Callable[[], Any]], bool]) -> bool:
        """Call `dropped` when a connection is garbage-collected, from now on."""
        self._opened.dropped = dropped
        return True
