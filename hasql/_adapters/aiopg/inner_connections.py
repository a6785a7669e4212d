"""What is known of the aiopg connection inside each object that an aiopg pool hands out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hasql._adapters.aiopg.connection import count_rows, in_hot_standby, is_read_only
from hasql._adapters.aiopg.transactions import AiopgTransaction
from hasql.driver import AsyncPool, ConnT, PoolT

if TYPE_CHECKING:
    from hasql.driver.transactions import TransactionModes

__all__ = ("InnerConnections",)


class InnerConnections(AsyncPool[PoolT, ConnT]):
    """The part of a pool that inspects connections, each of which may be inside another object."""

    def inner_of(self, connection: Any) -> Any:
        """Return the aiopg connection inside an object that was handed out, or inside a slot.

        None: the user has closed the object that was handed out.
        """
        return connection

    def key(self, connection: ConnT) -> Any:
        return None if self.is_closed(connection) else self.inner_of(connection).raw

    async def count_rows(self, connection: ConnT, sql: str) -> int:
        return await count_rows(self.inner_of(connection), sql)

    def is_read_only(self, connection: ConnT) -> bool:
        return is_read_only(self.inner_of(connection))

    def in_hot_standby(self, connection: ConnT) -> bool | None:
        inner = self.inner_of(connection)
        return None if inner is None else in_hot_standby(inner)

    def hold(self, connection: ConnT) -> None:
        inner = self.inner_of(connection)
        if inner is not None:
            inner.raw.hold()

    def is_held_by_another(self, connection: Any) -> bool:
        # If this is not the slot itself, it is an object of one lease alone, and no other task can
        # hold it.
        inner = self.inner_of(connection)
        return inner is connection and bool(inner.raw.is_held_by_another())

    def note_release(self, connection: Any) -> None:
        inner = self.inner_of(connection)
        if inner is connection:
            inner.raw.note_release()

    def is_closed(self, connection: ConnT) -> bool:
        inner = self.inner_of(connection)
        return inner is None or bool(inner.closed)

    def transaction(self, connection: ConnT, modes: TransactionModes) -> AiopgTransaction:
        return AiopgTransaction(self.inner_of(connection), modes)
