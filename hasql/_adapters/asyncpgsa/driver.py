"""asyncpgsa as a driver: asyncpg's adapter, with the pools that asyncpgsa makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpgsa

from hasql._adapters.asyncpg.driver import AsyncpgDriver

if TYPE_CHECKING:
    from asyncpg import Record
    from asyncpg.cursor import CursorFactory
    from asyncpg.pool import PoolConnectionProxy
    from sqlalchemy.sql import ClauseElement

    Query: TypeAlias = str | ClauseElement

    class AsyncpgsaConnection(PoolConnectionProxy[Record]):
        """The types of asyncpgsa's connections: asyncpg's proxies that also take expressions.

        Rows are `Any`, because a call or the pool may name any class of records.
        """

        async def execute(
            self, query: Query, *args: object, timeout: float | None = ...
        ) -> str: ...

        async def fetch(
            self,
            query: Query,
            *args: object,
            timeout: float | None = ...,
            record_class: type[Record] | None = ...,
        ) -> list[Any]: ...

        async def fetchrow(
            self,
            query: Query,
            *args: object,
            timeout: float | None = ...,
            record_class: type[Record] | None = ...,
        ) -> Any | None: ...

        async def fetchval(
            self, query: Query, *args: object, column: int = ..., timeout: float | None = ...
        ) -> Any: ...

        def cursor(  # type: ignore[override]  # asyncpgsa's takes no `record_class`
            self,
            query: Query,
            *args: object,
            prefetch: int | None = ...,
            timeout: float | None = ...,
        ) -> CursorFactory[Record]: ...

else:
    from asyncpg.pool import PoolConnectionProxy as AsyncpgsaConnection

__all__ = ("AsyncpgsaConnection", "AsyncpgsaDriver")


class AsyncpgsaDriver(AsyncpgDriver):
    """The driver for asyncpgsa, whose `create_pool` also takes a dialect of SQLAlchemy's."""

    def __init__(self) -> None:
        super().__init__(asyncpgsa.create_pool, also=("dialect",))
