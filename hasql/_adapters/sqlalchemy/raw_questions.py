"""Questions to the library's connection beneath one of SQLAlchemy's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import exc

from hasql._adapters.sqlalchemy.leases import raw_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from hasql._adapters.sqlalchemy.library import DbapiLibrary

__all__ = ("RawConnectionMixin",)


class RawConnectionMixin:
    """Mixed into the adapter of an engine, before `AsyncPool`."""

    _library: DbapiLibrary

    async def count_rows(self, connection: AsyncConnection, sql: str) -> int:
        """Run a query without SQLAlchemy; see `AsyncPool.count_rows`."""
        return await self._library.count_rows(raw_of(connection), sql)

    def is_read_only(self, connection: AsyncConnection) -> bool:
        """Tell what the server last reported; see `DriverPool.is_read_only`."""
        return self._library.is_read_only(raw_of(connection))

    async def roll_back(self, connection: AsyncConnection) -> None:
        """Roll SQLAlchemy's transaction back; see `AsyncPool.roll_back`."""
        await connection.rollback()
        if not self._library.is_clean(raw_of(connection)):
            raise exc.InvalidRequestError(
                "a transaction is open that SQLAlchemy does not know about"
            )
