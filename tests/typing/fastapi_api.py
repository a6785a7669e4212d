"""What a user of FastAPI would write, for type checkers to read; nothing runs it. See `api.py`."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, TypedDict, assert_type

import asyncpg
import psycopg
from asyncpg.pool import PoolConnectionProxy
from fastapi import Depends, FastAPI, WebSocket
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from starlette.applications import Starlette

from hasql import asyncsqlalchemy, psycopg3
from hasql.asyncpg import PoolManager
from hasql.contrib.fastapi import Access, Hasql

Connection = PoolConnectionProxy[asyncpg.Record]


class State(TypedDict):
    answer: int


@asynccontextmanager
async def own(_: FastAPI) -> AsyncIterator[State]:
    yield {"answer": 42}


db = Hasql(PoolManager("postgresql://app@db1,db2/app"))
reports = Hasql(psycopg3.PoolManager("postgresql://app@db3/app"), name="reports")
orm = Hasql(asyncsqlalchemy.PoolManager("postgresql://app@db1,db2/app"), "orm")
Hasql("postgresql://app@db1/app")  # type: ignore[arg-type]
Hasql(name="default")  # type: ignore[call-arg]

app = FastAPI(lifespan=db.lifespan)
FastAPI(lifespan=db.lifespan_with(own))
FastAPI(lifespan=db.lifespan_with(reports.lifespan_with(own)))
FastAPI(lifespan=db.lifespan_with(reports.lifespan))
Starlette(lifespan=db.lifespan)
db.install(app)
db.install(Starlette())
db.install("app")  # type: ignore[arg-type]
app.include_router(db.health, prefix="/internal")
app.dependency_overrides[db.master] = lambda: None

Master = Annotated[asyncpg.Connection, Depends(db.master)]
Replica = Annotated[asyncpg.Connection[asyncpg.Record], Depends(db.replica, scope="function")]


@app.get("/a")
async def with_connections(conn: Master, read: Replica) -> None:
    assert_type(await conn.fetchrow("SELECT 1"), asyncpg.Record | None)
    assert_type(await read.execute("SELECT 1"), str)


@app.get("/b")
async def with_psycopg(
    conn: Annotated[psycopg.AsyncConnection, Depends(reports.replica)],
) -> None:
    await conn.execute("SELECT 1")


@app.get("/c")
async def with_sessions(
    session: Annotated[AsyncSession, Depends(orm.session)],
    read: Annotated[AsyncSession, Depends(orm.read_session)],
    conn: Annotated[AsyncConnection, Depends(orm.master)],
) -> None:
    await session.commit()
    await read.rollback()
    await conn.commit()


@app.websocket("/d")
async def lazily(
    websocket: WebSocket,
    access: Annotated[Access[Connection], Depends(db.access)],
    some: Annotated[Access, Depends(reports.access)],
) -> None:
    await websocket.accept()
    assert_type(
        access.replica(fallback_master=True, timeout=1), AbstractAsyncContextManager[Connection]
    )
    async with access.master(timeout=5) as conn:
        assert_type(conn, Connection)
    async with some.replica() as other:
        assert_type(other, Any)
    async with some.session() as session:
        assert_type(session, AsyncSession)
    async with some.read_session(timeout=1) as session:
        assert_type(session, AsyncSession)
    await access.master()  # type: ignore[misc]


async def what_they_give(connection: WebSocket) -> None:
    async for conn in db.master(connection):
        assert_type(conn, Connection)
    async for psycopg_conn in reports.replica(connection):
        assert_type(psycopg_conn, psycopg.AsyncConnection)
    async for session in orm.session(connection):
        assert_type(session, AsyncSession)
    assert_type(await db.access(connection), Access[Connection])
    assert_type(orm.pool.closed, bool)
    assert_type(db.name, str)
