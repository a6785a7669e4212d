"""SQLAlchemy's queue pool over psycopg2, with everything that the core needs of a pool."""

from __future__ import annotations

from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any

from psycopg2 import extensions
from sqlalchemy import event
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from hasql._adapters.psycopg2.library import LIBRARY
from hasql._adapters.psycopg2.transactions import Psycopg2Transaction
from hasql._adapters.sqlalchemy.thread_acquires import QueueAcquires
from hasql._adapters.sqlalchemy.thread_request import Taking
from hasql.driver import ThreadPool
from hasql.driver.arguments import refuse_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hasql._adapters.session_setup import WithSettings
    from hasql.driver import PoolSizes
    from hasql.driver.address_race import ThreadedConnect
    from hasql.driver.time_left import TimeLeft

__all__ = ("Psycopg2Pool",)


class Psycopg2Pool(ThreadPool[QueuePool, extensions.connection]):
    """One queue pool, the connections that it has opened, and which of them are leased.

    Args:
        sizes: The sizes of the pool.
        kwargs: The arguments of the queue pool.
        connect: Opens a connection, and returns it with the address that it leads to.
    """

    def __init__(
        self,
        sizes: PoolSizes,
        kwargs: Mapping[str, Any],
        connect: Callable[[ThreadedConnect], WithSettings[tuple[Any, str | None]]],
    ) -> None:
        self.sizes = sizes
        self._acquires = QueueAcquires(LIBRARY, lambda: self.pool, connect, sizes.maximum)
        self._connections = self._acquires.connections
        self.destinations = self._connections.destinations
        self.pool = QueuePool(self._acquires.create, **kwargs)
        self._acquires.watch(self.pool)
        if "dialect" in kwargs:
            self._acquires.watch_pings(kwargs["dialect"])
        self._rolls_back = kwargs.get("reset_on_return", True) in {True, "rollback"}
        if not self._rolls_back:
            event.listen(self.pool, "checkin", self._on_checkin)
        self._taking = Taking(
            self.pool.connect, attrgetter("dbapi_connection"), methodcaller("invalidate")
        )
        #: By psycopg2's connection: the pool's object for it, which must be given back.
        self._leases: dict[Any, PoolProxiedConnection] = {}
        # Bound directly, so that they do not cost an extra call.
        self.abort: Any = self._connections.abort
        self.in_hot_standby: Any = self._connections.in_hot_standby
        self.is_closed: Any = self._connections.is_closed
        self.idle: Any = self._acquires.idle
        self.end_connects: Any = self._acquires.end_connects
        self.terminate: Any = self._acquires.terminate

    @property
    def size(self) -> int:
        return len(self._connections)

    def acquire(self, time_left: TimeLeft, **kwargs: Any) -> extensions.connection:
        refuse_all(kwargs, "SQLAlchemy's queue pool")
        proxied = self._acquires.acquire(time_left, self._taking)
        raw: Any = proxied.dbapi_connection
        self._leases[raw] = proxied
        return raw  # type: ignore[no-any-return]  # psycopg2 has made it

    def release(
        self, connection: extensions.connection, *, close: bool = False, **kwargs: Any
    ) -> None:
        """Give a connection back; close it if `close` is true, as psycopg2's own pools do."""
        proxied = self._leases.pop(connection, None)
        ends = close or bool(kwargs)
        try:
            if proxied is None:
                # The application has taken it from the pool directly, and itself has the object
                # that gives it back.
                (self.abort if ends else LIBRARY.roll_back)(connection)
            elif ends or self.is_closed(connection):
                proxied.invalidate()
            else:
                self._give_back(connection, proxied)
            refuse_all(kwargs, "beside close=, putconn()")
        finally:
            self._acquires.note_idle(connection)

    def _give_back(self, connection: extensions.connection, proxied: PoolProxiedConnection) -> None:
        try:
            if self._rolls_back:
                LIBRARY.roll_back(connection)  # the pool would only log an error, and go on
            proxied.close()
        except BaseException:
            self.abort(connection)
            if proxied.is_valid:
                proxied.invalidate()
            raise

    def _on_checkin(self, raw: Any, _: object) -> None:
        # The pool was told not to roll back. A connection with an open transaction must not be
        # leased again.
        if raw is not None and not LIBRARY.is_clean(raw):
            self.abort(raw)

    transaction: Any = Psycopg2Transaction

    def count_rows(self, connection: extensions.connection, sql: str) -> int:
        return LIBRARY.count_rows(connection, sql)

    def roll_back(self, connection: extensions.connection) -> None:
        LIBRARY.roll_back(connection)

    def is_read_only(self, connection: extensions.connection) -> bool:
        return LIBRARY.is_read_only(connection)

    def purge(self, leased: Iterable[extensions.connection]) -> None:
        self._acquires.purge(set(leased))

    def drain(
        self, leased: Iterable[extensions.connection], has_left: Callable[[str | None], bool]
    ) -> None:
        self._acquires.drain(set(leased), has_left)

    async def close(self) -> None:
        self._acquires.close()
