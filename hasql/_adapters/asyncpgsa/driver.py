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
        """What is handed out is asyncpg's proxy, but it takes more than that is known to take.

        Rows are `Any`: there is no telling which class of record a call or the pool was given.
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
    """asyncpgsa as a whole; its `create_pool` takes a dialect of SQLAlchemy's as well."""

    def __init__(self) -> None:
        super().__init__(asyncpgsa.create_pool, also=("dialect",))
