"""The pool manager for asyncpgsa: asyncpg's connections that take SQLAlchemy's expressions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from hasql.base import BasePoolManager
from hasql.errors import MissingExtraError

try:
    import asyncpgsa

    from hasql._adapters.asyncpg.connection import Pool
    from hasql._adapters.asyncpg.driver import AsyncpgDriver
except ImportError as error:  # also asyncpgsa's own, of what SQLAlchemy 2 has no more
    raise MissingExtraError(
        "hasql.asyncpgsa needs asyncpgsa, which works with SQLAlchemy 1.4 alone: "
        "pip install 'hasql[asyncpgsa]'"
    ) from error

if TYPE_CHECKING:
    from asyncpg import Record
    from asyncpg.cursor import CursorFactory
    from asyncpg.pool import PoolConnectionProxy
    from sqlalchemy.sql import ClauseElement

    Query: TypeAlias = str | ClauseElement

    class Connection(PoolConnectionProxy[Record]):
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


__all__ = ("PoolManager",)


class PoolManager(BasePoolManager[Pool, "Connection"]):
    """Hands out asyncpgsa's connections, as the pool of `asyncpgsa.create_pool` does.

    `pool_factory_kwargs` are those of `asyncpgsa.create_pool`. An open transaction is rolled back
    when the connection is given back, as by that pool.

    asyncpgsa 0.27.1, its last release, cannot compile `insert()` and `update()` of SQLAlchemy 1.4
    (https://github.com/CanopyTax/asyncpgsa/issues/114); `text()` with parameters does the same.
    """

    _driver = AsyncpgDriver(asyncpgsa.create_pool, also=("dialect",))
    _plus_is_space = True
