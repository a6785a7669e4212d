"""What each driver's pool manager is known to hand out, for type checkers; nothing runs it.

`api.py` tells all of the API with one driver. The others differ in the classes of their pools and
connections alone, so that is what is asserted here, with what a user does with them.
"""

from typing import Any, assert_type

import aiopg
import aiopg.sa
import asyncpg
import psycopg
from psycopg.rows import TupleRow
from psycopg2 import extensions
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

import hasql.aiopg
import hasql.aiopg_sa
import hasql.asyncpgsa
import hasql.asyncsqlalchemy
import hasql.psycopg3
import hasql.sync.psycopg2
import hasql.sync.psycopg3
import hasql.sync.sqlalchemy
from hasql.asyncsqlalchemy import async_sessionmaker
from hasql.dns import get_async_dns_engine, get_dns_engine
from hasql.sync.sqlalchemy import sessionmaker

PsycopgConnection = psycopg.AsyncConnection[TupleRow]
PsycopgPool = AsyncConnectionPool[PsycopgConnection]
ThreadConnection = psycopg.Connection[TupleRow]
AsyncpgConnection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
AsyncpgPool = asyncpg.Pool[asyncpg.Record]


async def psycopg3(pool: hasql.psycopg3.PoolManager) -> None:
    async with pool.acquire_master() as conn:
        assert_type(conn, PsycopgConnection)
        cursor = await conn.execute("SELECT 1")
        assert_type(await cursor.fetchone(), TupleRow | None)
    async with pool.acquire_replica(fallback_master=True) as conn:
        assert_type(conn, PsycopgConnection)
    async with pool.acquire(read_only=True) as conn, conn.transaction():
        assert_type(conn, PsycopgConnection)
        conn.no_such_method()  # type: ignore[attr-defined]
    lent = await pool.acquire()
    assert_type(lent, PsycopgConnection)
    await pool.release(lent)
    driver_pool = await pool.get_pool(read_only=False)
    assert_type(driver_pool, PsycopgPool)
    assert_type(pool.pools, list[PsycopgPool])
    async with pool.acquire_from_pool(driver_pool) as conn:
        assert_type(conn, PsycopgConnection)
    async with hasql.psycopg3.PoolManager("postgresql://db1/app") as entered:
        assert_type(entered, hasql.psycopg3.PoolManager)


def psycopg3_in_threads(pool: hasql.sync.psycopg3.PoolManager) -> None:
    with pool.acquire_master() as conn:
        assert_type(conn, ThreadConnection)
        assert_type(conn.execute("SELECT 1").fetchone(), TupleRow | None)
    with pool.acquire_replica(fallback_master=True) as conn, conn.transaction():
        assert_type(conn, ThreadConnection)
        conn.no_such_method()  # type: ignore[attr-defined]
    lent = pool.getconn(read_only=True)
    assert_type(lent, ThreadConnection)
    pool.putconn(lent)
    driver_pool = pool.get_pool(read_only=False)
    assert_type(driver_pool, ConnectionPool[ThreadConnection])
    assert_type(pool.pools, list[ConnectionPool[ThreadConnection]])
    with pool.acquire_from_pool(driver_pool) as conn:
        assert_type(conn, ThreadConnection)
    with hasql.sync.psycopg3.PoolManager("postgresql://db1/app") as entered:
        assert_type(entered, hasql.sync.psycopg3.PoolManager)


async def of_aiopg(pool: hasql.aiopg.PoolManager) -> None:
    async with pool.acquire_master() as conn:
        _ = assert_type(conn, aiopg.Connection)
        async with conn.cursor() as cursor:
            await cursor.execute("SELECT 1")
    async with pool.acquire_replica() as conn:
        _ = assert_type(conn, aiopg.Connection)
    async with pool.acquire(read_only=True) as conn:
        _ = assert_type(conn, aiopg.Connection)
        conn.no_such_method()  # type: ignore[attr-defined]
    lent = await pool.acquire()
    _ = assert_type(lent, aiopg.Connection)
    await pool.release(lent)
    driver_pool = await pool.get_pool(read_only=False)
    _ = assert_type(driver_pool, aiopg.Pool)
    assert_type(pool.pools, list[aiopg.Pool])
    async with pool.acquire_from_pool(driver_pool) as conn:
        _ = assert_type(conn, aiopg.Connection)


async def of_aiopg_sa(pool: hasql.aiopg_sa.PoolManager) -> None:
    async with pool.acquire_master() as conn:
        assert_type(conn, aiopg.sa.SAConnection)
    async with pool.acquire_replica() as conn:
        assert_type(conn, aiopg.sa.SAConnection)
    async with pool.acquire(read_only=True) as conn:
        assert_type(conn, aiopg.sa.SAConnection)
        conn.no_such_method()  # type: ignore[attr-defined]
    lent = await pool.acquire()
    assert_type(lent, aiopg.sa.SAConnection)
    await pool.release(lent)
    engine = await pool.get_pool(read_only=False)
    _ = assert_type(engine, aiopg.sa.Engine)
    assert_type(pool.pools, list[aiopg.sa.Engine])
    async with pool.acquire_from_pool(engine) as conn:
        assert_type(conn, aiopg.sa.SAConnection)


async def asyncsqlalchemy(pool: hasql.asyncsqlalchemy.PoolManager) -> None:
    async with pool.acquire_master() as conn:
        _ = assert_type(conn, AsyncConnection)
        await conn.execute(text("SELECT 1"))
        await conn.commit()
    async with pool.acquire_replica() as conn:
        _ = assert_type(conn, AsyncConnection)
    async with pool.acquire(read_only=True) as conn, conn.begin():
        _ = assert_type(conn, AsyncConnection)
        conn.no_such_method()  # type: ignore[attr-defined]
    lent = await pool.acquire()
    _ = assert_type(lent, AsyncConnection)
    await pool.release(lent)
    engine = await pool.get_pool(read_only=False)
    assert_type(engine, AsyncEngine)
    assert_type(pool.pools, list[AsyncEngine])
    async with pool.acquire_from_pool(engine) as conn:
        _ = assert_type(conn, AsyncConnection)


async def engines(url: URL) -> None:
    engine = get_dns_engine(url, dns_nameservers=["10.0.0.2"], dns_timeout=1.5, pool_size=10)
    assert_type(engine, Engine)
    get_dns_engine("postgresql+psycopg://db.example.com/app", dns_timeout="12")  # type: ignore[arg-type]
    assert_type(get_async_dns_engine(url, dns_grace_ttl=60, echo=True), AsyncEngine)


class OwnSession(AsyncSession):
    pass


async def sessions(pool: hasql.asyncsqlalchemy.PoolManager) -> None:
    maker = async_sessionmaker(pool, expire_on_commit=False)
    async with maker() as session:
        assert_type(session, AsyncSession)
        await session.execute(text("SELECT 1"))
        await session.commit()
    async with maker(read_only=True) as session:
        assert_type(session, AsyncSession)
    async with maker.begin() as session:
        assert_type(session, AsyncSession)
    async with async_sessionmaker(pool, class_=OwnSession)() as own:
        assert_type(own, OwnSession)
    routed = async_sessionmaker(pool, route="auto", read_functions=["lower"], autoflush=False)
    async with routed() as session, routed.begin(read_only=False) as other:
        assert_type(session, AsyncSession)
        assert_type(other, AsyncSession)
    async_sessionmaker(pool, route="automatic")  # type: ignore[call-overload]

    async def work(session: AsyncSession) -> int:
        await session.execute(text("SELECT 1"))
        return 42

    async def own_work(session: OwnSession) -> None:
        await session.execute(text("SELECT 1"))

    assert_type(await routed.run(work), int)
    assert_type(await routed.run(work, read_only=True, isolation="serializable"), int)
    await async_sessionmaker(pool, class_=OwnSession, route="auto").run(own_work)


async def of_asyncpgsa(pool: hasql.asyncpgsa.PoolManager) -> None:
    async with pool.acquire_master() as conn:
        # What asyncpgsa's takes beyond asyncpg's: expressions.
        assert_type(await conn.fetch(text("SELECT 1")), list[Any])
        assert_type(await conn.execute("SELECT 1", timeout=1), str)
        as_asyncpgs: AsyncpgConnection = conn
        async with as_asyncpgs.transaction():
            pass
    async with pool.acquire_replica() as conn:
        await conn.fetchval(text("SELECT 1"))
    async with pool.acquire(read_only=True) as conn:
        conn.no_such_method()  # type: ignore[attr-defined]
    lent = await pool.acquire()
    await pool.release(lent)
    driver_pool = await pool.get_pool(read_only=False)
    _ = assert_type(driver_pool, AsyncpgPool)
    assert_type(pool.pools, list[AsyncpgPool])
    async with pool.acquire_from_pool(driver_pool) as conn:
        await conn.fetchrow(text("SELECT 1"))


def psycopg2_in_threads(pool: hasql.sync.psycopg2.PoolManager) -> None:
    with pool.acquire_master() as conn:
        assert_type(conn, extensions.connection)
        with conn.cursor() as cursor:
            cursor.execute("SELECT 1")
        conn.no_such_method()  # type: ignore[attr-defined]
    with pool.acquire_replica(fallback_master=True) as conn:
        assert_type(conn, extensions.connection)
    lent = pool.getconn(read_only=True)
    assert_type(lent, extensions.connection)
    pool.putconn(lent)
    assert_type(pool.get_pool(read_only=False), QueuePool)


def sqlalchemy_in_threads(pool: hasql.sync.sqlalchemy.PoolManager) -> None:
    with pool.acquire(read_only=True) as conn:
        assert_type(conn, Connection)
        conn.execute(text("SELECT 1"))
    assert_type(pool.get_pool(read_only=False), Engine)
    maker = sessionmaker(pool, expire_on_commit=False)
    with maker() as session:
        assert_type(session, Session)
    with maker.begin(read_only=True) as session:
        assert_type(session, Session)
    routed = sessionmaker(pool, route="auto", read_functions=["lower"])
    with routed() as session:
        assert_type(session, Session)
    assert_type(routed.run(lambda session: session.is_active), bool)


class OwnThreadSession(Session):
    pass


def own_sessions_in_threads(pool: hasql.sync.sqlalchemy.PoolManager) -> None:
    with sessionmaker(pool, class_=OwnThreadSession)() as own:
        assert_type(own, OwnThreadSession)

    def work(session: OwnThreadSession) -> str:
        return str(session.info)

    assert_type(sessionmaker(pool, class_=OwnThreadSession, route="auto").run(work), str)
