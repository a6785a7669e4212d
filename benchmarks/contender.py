"""The contenders: a driver's pool alone, and a pool manager over it, each with its own interface.

This runs in our environment and in that of the published hasql, so it uses only what both have: the
drivers, and the pool managers' public interface.
"""

from contextlib import AbstractAsyncContextManager
from importlib import import_module
from importlib.metadata import version
from typing import Any

__all__ = ("DRIVERS", "Asyncpg", "Contender", "Psycopg", "SQLAlchemy", "hasql_version")


def hasql_version() -> str:
    """Return the version of hasql in this environment."""
    return version("hasql")


class Contender:
    """A driver library."""

    #: The module of its pool manager.
    module: str
    #: Whether its pool has a reset that a user can switch off.
    has_reset = True

    def options(self, size: int, *, reset: bool) -> dict[str, Any]:
        """Make the arguments for a pool that has `size` connections."""
        raise NotImplementedError

    def manager(self, dsn: str, size: int, *, reset: bool = True, **kwargs: Any) -> Any:
        """Make a pool manager."""
        options = self.options(size, reset=reset)
        return import_module(self.module).PoolManager(dsn, pool_factory_kwargs=options, **kwargs)

    async def bare(self, dsn: str, size: int, *, reset: bool = True) -> Any:
        """Open the driver's own pool on one host."""
        raise NotImplementedError

    def lend(self, pool: Any) -> AbstractAsyncContextManager[Any]:
        """Acquire from the driver's own pool, as `manager.acquire()` does through hasql."""
        raise NotImplementedError

    async def close(self, pool: Any) -> None:
        """Close the driver's own pool."""
        await pool.close()

    async def select_1(self, connection: Any) -> None:
        """Run the smallest statement."""
        raise NotImplementedError

    async def value(self, connection: Any, query: str) -> Any:
        """Run a query and return its only value."""
        raise NotImplementedError

    async def write(self, connection: Any, statement: str) -> Any:
        """Run a statement, commit, and return its only value."""
        raise NotImplementedError


async def _no_reset(_: object) -> None:
    pass


class Asyncpg(Contender):
    module = "hasql.asyncpg"

    def options(self, size: int, *, reset: bool) -> dict[str, Any]:
        options: dict[str, Any] = {"min_size": size, "max_size": size}
        return options if reset else options | {"reset": _no_reset}

    async def bare(self, dsn: str, size: int, *, reset: bool = True) -> Any:
        import asyncpg

        return await asyncpg.create_pool(dsn, **self.options(size, reset=reset))

    def lend(self, pool: Any) -> AbstractAsyncContextManager[Any]:
        context: AbstractAsyncContextManager[Any] = pool.acquire()
        return context

    async def select_1(self, connection: Any) -> None:
        await connection.fetchval("SELECT 1")

    async def value(self, connection: Any, query: str) -> Any:
        return await connection.fetchval(query)

    async def write(self, connection: Any, statement: str) -> Any:
        return await connection.fetchval(statement)  # asyncpg commits by itself


class Psycopg(Contender):
    module = "hasql.psycopg3"
    has_reset = False  # its pool only rolls an open transaction back

    def options(self, size: int, *, reset: bool) -> dict[str, Any]:
        del reset
        return {"min_size": size, "max_size": size}

    async def bare(self, dsn: str, size: int, *, reset: bool = True) -> Any:
        from psycopg_pool import AsyncConnectionPool

        pool = AsyncConnectionPool(dsn, **self.options(size, reset=reset), open=False)
        await pool.open(wait=True)
        return pool

    def lend(self, pool: Any) -> AbstractAsyncContextManager[Any]:
        context: AbstractAsyncContextManager[Any] = pool.connection()
        return context

    async def select_1(self, connection: Any) -> None:
        await (await connection.execute("SELECT 1")).fetchone()

    async def value(self, connection: Any, query: str) -> Any:
        return (await (await connection.execute(query)).fetchone())[0]

    async def write(self, connection: Any, statement: str) -> Any:
        value = await self.value(connection, statement)
        await connection.commit()
        return value


class SQLAlchemy(Contender):
    module = "hasql.asyncsqlalchemy"

    def __init__(self) -> None:
        from sqlalchemy import text

        # An application would define these at the top of its module.
        self._text = text
        self._select_1 = text("SELECT 1")

    def options(self, size: int, *, reset: bool) -> dict[str, Any]:
        options: dict[str, Any] = {"pool_size": size, "max_overflow": 0}
        return options if reset else options | {"pool_reset_on_return": None}

    async def bare(self, dsn: str, size: int, *, reset: bool = True) -> Any:
        from sqlalchemy.ext.asyncio import create_async_engine

        address = dsn.replace("postgresql://", "postgresql+asyncpg://")
        return create_async_engine(address, **self.options(size, reset=reset))

    def lend(self, pool: Any) -> AbstractAsyncContextManager[Any]:
        context: AbstractAsyncContextManager[Any] = pool.connect()
        return context

    async def close(self, pool: Any) -> None:
        await pool.dispose()

    async def select_1(self, connection: Any) -> None:
        await connection.execute(self._select_1)

    async def value(self, connection: Any, query: str) -> Any:
        return (await connection.execute(self._text(query))).scalar_one()

    async def write(self, connection: Any, statement: str) -> Any:
        value = await self.value(connection, statement)
        await connection.commit()
        return value


DRIVERS = {
    "asyncpg": Asyncpg,
    "psycopg3": Psycopg,
    "sqlalchemy": SQLAlchemy,
}
