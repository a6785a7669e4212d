"""`hasql.contrib.fastapi` on real servers: what a request holds, how long, and how that ends."""

import asyncio
import importlib
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Annotated, Any, Literal, cast

import asyncpg
import psycopg
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from sqlalchemy import text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from starlette.applications import Starlette
from starlette.exceptions import HTTPException as HTTPError
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Receive, Send

import hasql.asyncsqlalchemy
import hasql.psycopg3
import hasql.sync.psycopg3
from hasql import (
    ConfigurationError,
    NotAvailableError,
    PoolManagerClosedError,
    UnknownConnectionError,
)
from hasql.asyncpg import PoolManager
from hasql.base import BasePoolManager
from hasql.contrib.fastapi import Access, Hasql
from hasql.testing import LocalCluster
from testbed.scene import Table, asleep, until, until_asleep, until_sessions
from testbed.web.asgi import ask

Scope = Literal["function", "request"] | None
SCOPES: tuple[Scope, ...] = (None, "function", "request")
IN_RECOVERY = "SELECT pg_is_in_recovery()"


def held(pool: BasePoolManager[Any, Any]) -> int:
    """Count the connections that are lent."""
    return sum(node.in_flight for node in pool.metrics().nodes)


@asynccontextmanager
async def serving(*dbs: Hasql[Any], app: FastAPI | None = None) -> AsyncIterator[FastAPI]:
    """Run an application with these clusters; no connection may be lent at its end."""
    app = app or FastAPI()
    async with AsyncExitStack() as stack:
        for db in dbs:
            db.install(app)
            await stack.enter_async_context(db.lifespan(app))
        yield app
        assert [held(db.pool) for db in dbs] == [0] * len(dbs)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Run each test on one of the event loops, by its name: the drivers' own tests run on both."""
    return "asyncio", {"use_uvloop": zlib.crc32(request.node.name.encode()) % 2 == 1}


@pytest.fixture
def db(pg_cluster: LocalCluster, application: str) -> Hasql[Any]:
    return Hasql(PoolManager(f"{pg_cluster.dsn}?application_name={application}"))


@pytest.fixture
def psycopg_db(pg_cluster: LocalCluster) -> Hasql[Any]:
    """The cluster of a driver whose blocks commit at their end."""
    return Hasql(hasql.psycopg3.PoolManager(pg_cluster.dsn))


@pytest.fixture
def sqlalchemy_db(pg_cluster: LocalCluster) -> Hasql[AsyncConnection]:
    return Hasql(hasql.asyncsqlalchemy.PoolManager(pg_cluster.dsn))


# How long a request holds a connection


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", ["well", "exception", "stream", "background"])
async def test_nothing_is_held_when_the_response_begins(
    db: Hasql[Any], scope: Scope, kind: str
) -> None:
    during: list[int] = []
    async with serving(db) as app:

        async def parts() -> AsyncIterator[str]:
            for _ in range(2):
                during.append(held(db.pool))
                yield "part"

        async def later() -> None:
            during.append(held(db.pool))

        @app.get("/")
        async def endpoint(
            conn: Annotated[asyncpg.Connection, Depends(db.master, scope=scope)],
            read: Annotated[asyncpg.Connection, Depends(db.replica, scope=scope)],
            tasks: BackgroundTasks,
        ) -> Any:
            assert held(db.pool) == 2
            assert await conn.fetchval(IN_RECOVERY) is False
            assert await read.fetchval(IN_RECOVERY) is True
            if kind == "exception":
                raise HTTPException(409)
            tasks.add_task(later)
            return StreamingResponse(parts()) if kind == "stream" else "ok"

        response = await ask(app, "/", watch=lambda: held(db.pool))
    assert response.error is None
    assert response.status == (409 if kind == "exception" else 200)
    assert set(response.watched) == {0}
    assert set(during) <= {0}
    assert bool(during) == (kind != "exception")


async def test_a_request_has_one_connection_for_each_role_whatever_the_scopes(
    db: Hasql[Any],
) -> None:
    async with serving(db) as app:

        async def repository(
            conn: Annotated[asyncpg.Connection, Depends(db.master)],
        ) -> AsyncIterator[Any]:
            yield conn

        @app.get("/")
        async def endpoint(  # noqa: PLR0913  # each way to ask for one
            one: Annotated[Any, Depends(db.master, scope="function")],
            two: Annotated[Any, Depends(db.master, scope="request")],
            three: Annotated[Any, Depends(db.master, use_cache=False)],
            four: Annotated[Any, Depends(repository, scope="request")],
            read: Annotated[Any, Depends(db.replica)],
            other: Annotated[Any, Depends(db.replica, scope="function")],
        ) -> str:
            assert len({id(x) for x in (one, two, three, four)}) == 1
            assert read is other is not one
            assert held(db.pool) == 2
            return "ok"

        response = await ask(app, "/", watch=lambda: held(db.pool))
        assert (response.error, response.json, set(response.watched)) == (None, "ok", {0})


async def test_what_an_exception_has_ended_is_held_until_the_last_dependency_has_seen_it(
    psycopg_db: Hasql[Any], table: Table
) -> None:
    """As in nested blocks, a later dependency ends first, and may still use the connection."""
    db, seen = psycopg_db, []
    async with serving(db) as app:

        async def repository(conn: Annotated[Any, Depends(db.master)]) -> AsyncIterator[Any]:
            try:
                yield conn
            except ZeroDivisionError:
                await conn.execute("SELECT 1")
                seen.append(held(db.pool))
                raise HTTPException(418) from None

        @app.get("/")
        async def endpoint(
            conn: Annotated[Any, Depends(db.master, scope="function")],
            _: Annotated[Any, Depends(repository, scope="request")],
        ) -> None:
            await conn.execute(table.insert(1))
            raise ZeroDivisionError

        response = await ask(app, "/", watch=lambda: held(db.pool))
        assert (response.status, response.watched[0], seen) == (418, 0, [1])


# How the block of a request ends


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_block_ends_by_what_left_the_endpoint(
    psycopg_db: Hasql[Any], table: Table, pg_cluster: LocalCluster, scope: Scope
) -> None:
    async with serving(psycopg_db) as app:

        @app.post("/{number}/{how}")
        async def write(
            number: int, how: str, conn: Annotated[Any, Depends(psycopg_db.master, scope=scope)]
        ) -> Any:
            await conn.execute(table.insert(number))
            if how == "raises":
                raise ZeroDivisionError
            if how == "refuses":
                raise HTTPException(409)
            return JSONResponse("as it will be sent", int(how))

        statuses = [
            (await ask(app, path, "POST")).status
            for path in ("/1/200", "/2/500", "/3/404", "/4/raises", "/5/refuses")
        ]
    assert statuses == [200, 500, 404, 500, 409]
    assert (await pg_cluster.master.sql(f"{table.rows} ORDER BY i")).split() == ["1", "2", "3"]


@pytest.mark.parametrize("scope", SCOPES)
async def test_what_a_dependency_swallows_is_rolled_back_all_the_same(
    psycopg_db: Hasql[Any], table: Table, pg_cluster: LocalCluster, scope: Scope
) -> None:
    db = psycopg_db
    async with serving(db) as app:

        async def careless(
            conn: Annotated[Any, Depends(db.master, scope=scope)],
        ) -> AsyncIterator[Any]:
            with suppress(ZeroDivisionError):
                yield conn

        @app.get("/")
        async def endpoint(conn: Annotated[Any, Depends(careless, scope=scope)]) -> None:
            await conn.execute(table.insert(1))
            raise ZeroDivisionError

        assert (await ask(app, "/")).status == 500  # FastAPI's own: there is no response
    assert await pg_cluster.master.sql(table.rows) == ""


@pytest.fixture
async def checked_late(pg_cluster: LocalCluster, table: Table) -> str:
    """A statement whose transaction cannot be committed."""
    await pg_cluster.master.sql(
        f"ALTER TABLE {table.name} ADD CONSTRAINT {table.name}_u UNIQUE (i) "
        "DEFERRABLE INITIALLY DEFERRED"
    )
    return f"{table.insert(1)}, (1)"


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("scope", SCOPES)
async def test_a_commit_that_fails_goes_to_the_apps_handlers(
    psycopg_db: Hasql[Any], checked_late: str, scope: Scope, streams: bool
) -> None:
    done: list[str] = []
    async with serving(psycopg_db) as app:

        @app.exception_handler(psycopg.errors.UniqueViolation)
        async def handle(_: Request, error: Exception) -> PlainTextResponse:
            return PlainTextResponse(type(error).__name__, 409)

        async def parts() -> AsyncIterator[str]:
            done.append("streamed")
            yield "part"

        @app.get("/")
        async def endpoint(
            conn: Annotated[Any, Depends(psycopg_db.master, scope=scope)], tasks: BackgroundTasks
        ) -> Any:
            await conn.execute(checked_late)
            tasks.add_task(done.append, "background")
            return StreamingResponse(parts()) if streams else "ok"

        response = await ask(app, "/", watch=lambda: held(psycopg_db.pool))
    assert (response.status, response.body, response.error) == (409, b"UniqueViolation", None)
    assert (set(response.watched), done) == ({0}, [])


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_commit_that_fails_is_a_500_where_nobody_handles_it(
    psycopg_db: Hasql[Any], checked_late: str, scope: Scope
) -> None:
    async with serving(psycopg_db) as app:

        @app.get("/")
        async def endpoint(conn: Annotated[Any, Depends(psycopg_db.master, scope=scope)]) -> str:
            await conn.execute(checked_late)
            return "ok"

        response = await ask(app, "/")
    assert response.status == 500
    assert isinstance(response.error, psycopg.errors.UniqueViolation)


async def test_a_commit_that_fails_as_a_lost_connection_is_that_error(
    psycopg_db: Hasql[Any], pg_cluster: LocalCluster, table: Table
) -> None:
    """Starlette takes an OSError in sending for a client that has gone, but not this error."""
    async with serving(psycopg_db) as app:

        @app.get("/")
        async def endpoint(conn: Annotated[Any, Depends(psycopg_db.master)]) -> Any:
            await conn.execute(table.insert(1))
            pid = conn.info.backend_pid
            await pg_cluster.master.sql(f"SELECT pg_terminate_backend({pid}, 5000)")
            return StreamingResponse(iter(["part"]))

        response = await ask(app, "/")
    assert response.status == 500
    assert isinstance(response.error, psycopg.OperationalError)
    assert await pg_cluster.master.sql(table.rows) == ""


async def test_a_cancelled_request_leaves_nothing(
    db: Hasql[Any], pg_cluster: LocalCluster, application: str
) -> None:
    async with serving(db) as app:

        @app.get("/")
        async def endpoint(
            conn: Annotated[Any, Depends(db.master)],
            access: Annotated[Access, Depends(db.access)],
        ) -> None:
            async with access.replica():
                await conn.fetchval("SELECT pg_sleep(60)")

        request = asyncio.create_task(ask(app, "/"))
        await until_asleep(pg_cluster.master, application, 1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await until(lambda: held(db.pool) == 0)
        async with asyncio.timeout(10):
            while await asleep(pg_cluster.master, application):
                await asyncio.sleep(0.01)


async def test_under_a_middleware_that_answers_in_another_task_it_is_the_same(
    psycopg_db: Hasql[Any], table: Table, checked_late: str, pg_cluster: LocalCluster
) -> None:
    db = psycopg_db

    async def passes(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    async with serving(db) as app:
        app.add_middleware(BaseHTTPMiddleware, dispatch=passes)

        @app.exception_handler(psycopg.errors.UniqueViolation)
        async def handle(_: Request, error: Exception) -> PlainTextResponse:
            return PlainTextResponse(type(error).__name__, 409)

        @app.get("/{good}")
        async def endpoint(good: bool, conn: Annotated[Any, Depends(db.master)]) -> str:
            await conn.execute(table.insert(2) if good else checked_late)
            return "ok"

        bad = await ask(app, "/false", watch=lambda: held(db.pool))
        good = await ask(app, "/true", watch=lambda: held(db.pool))
    assert (bad.status, bad.body, good.status) == (409, b"UniqueViolation", 200)
    assert {*bad.watched, *good.watched} == {0}
    assert await pg_cluster.master.sql(table.rows) == "2"


async def test_a_mounted_application_has_what_is_installed_in_the_outer_one(
    psycopg_db: Hasql[Any], checked_late: str
) -> None:
    db, inner = psycopg_db, FastAPI()

    @inner.get("/")
    async def endpoint(conn: Annotated[Any, Depends(db.master)]) -> str:
        await conn.execute(checked_late)
        return "ok"

    @inner.exception_handler(psycopg.errors.UniqueViolation)
    async def handle_inside(_: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(type(error).__name__, 418)

    async def careful(scope: Any, receive: Any, send: Any) -> None:
        try:
            await inner(scope, receive, send)
        except Exception:  # noqa: BLE001  # as an application's middleware may
            await PlainTextResponse("something went wrong", 500)(scope, receive, send)

    async with serving(db) as app:
        app.mount("/inner", inner)
        app.mount("/careful", careful)

        @app.exception_handler(psycopg.errors.UniqueViolation)
        async def handle(_: Request, error: Exception) -> PlainTextResponse:
            return PlainTextResponse(type(error).__name__, 409)

        outside = await ask(app, "/inner/", watch=lambda: held(db.pool))
        caught = await ask(app, "/careful/")
        db.install(inner)
        inside = await ask(app, "/inner/", watch=lambda: held(db.pool))
    assert (outside.status, caught.status, inside.status) == (409, 409, 418)
    assert {*outside.watched, *inside.watched} == {0}


# Lazy access


async def test_access_takes_nothing_until_it_is_used_and_holds_it_for_its_block(
    db: Hasql[Any],
) -> None:
    counts = []
    async with serving(db) as app:

        @app.get("/")
        async def endpoint(
            access: Annotated[Access[asyncpg.Connection], Depends(db.access)],
        ) -> StreamingResponse:
            async def parts() -> AsyncIterator[str]:
                for block in (access.master, access.replica):
                    counts.append(held(db.pool))
                    async with block() as conn:
                        counts.append(held(db.pool))
                        part = str(await conn.fetchval(IN_RECOVERY))
                    yield part

            counts.append(held(db.pool))
            return StreamingResponse(parts())

        response = await ask(app, "/", watch=lambda: held(db.pool))
    assert response.body == b"FalseTrue"
    assert counts == [0, 0, 1, 0, 1]
    assert set(response.watched) == {0}


WEBSOCKET = {"type": "websocket", "subprotocols": [], "scheme": "ws"}


async def test_a_websocket_is_told_to_use_access(db: Hasql[Any]) -> None:
    async with serving(db) as app:

        @app.websocket("/")
        async def endpoint(
            websocket: WebSocket, conn: Annotated[Any, Depends(db.master)]
        ) -> None: ...

        @app.websocket("/lazily")
        async def lazily(
            websocket: WebSocket, access: Annotated[Access, Depends(db.access)]
        ) -> None:
            await websocket.accept()
            async with access.master() as conn:
                await websocket.send_json(await conn.fetchval("SELECT 1"))
            await websocket.close()

        refused = await ask(app, "/", scope=WEBSOCKET)
        served = await ask(app, "/lazily", scope=WEBSOCKET)
    assert isinstance(refused.error, ConfigurationError)
    assert "db.access" in str(refused.error)
    assert [message.get("text") for message in served.messages] == [None, "1", None]


async def test_an_endpoint_that_yields_is_told_to_use_access(db: Hasql[Any]) -> None:
    async with serving(db) as app:

        @app.get("/")
        async def endpoint(conn: Annotated[Any, Depends(db.master)]) -> AsyncIterator[int]:
            yield await conn.fetchval("SELECT 1")

        @app.get("/lazily")
        async def lazily(access: Annotated[Access, Depends(db.access)]) -> AsyncIterator[int]:
            async with access.master() as conn:
                yield await conn.fetchval("SELECT 1")

        refused, served = await ask(app, "/"), await ask(app, "/lazily")
    assert isinstance(refused.error, ConfigurationError)
    assert "db.access" in str(refused.error)
    assert served.json == 1


# Transactions that the application begins itself


@pytest.fixture(params=["asyncpg", "psycopg3", "aiopg", "asyncsqlalchemy"])
def any_db(request: pytest.FixtureRequest, pg_cluster: LocalCluster) -> Hasql[Any]:
    module = importlib.import_module(f"hasql.{request.param}")
    return Hasql(module.PoolManager(pg_cluster.dsn))


@asynccontextmanager
async def transaction(conn: Any) -> AsyncIterator[None]:
    """Begin a transaction and commit it at the end, with the methods of each driver."""
    if hasattr(conn, "begin"):
        async with conn.begin():
            yield
    elif hasattr(conn, "transaction"):
        async with conn.transaction():
            yield
    else:
        async with conn.cursor() as cursor, cursor.begin():
            yield


async def execute(conn: Any, sql: str) -> None:
    if hasattr(conn, "execute"):
        await conn.execute(text(sql) if hasattr(conn, "sync_connection") else sql)
    else:
        async with conn.cursor() as cursor:
            await cursor.execute(sql)


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_transaction_is_committed_or_the_response_says_that_it_was_not(
    any_db: Hasql[Any], table: Table, pg_cluster: LocalCluster, scope: Scope
) -> None:
    """By default FastAPI ends a dependency after the response, too late to report an error."""
    async with serving(any_db) as app:

        async def unit_of_work(
            conn: Annotated[Any, Depends(any_db.master)],
        ) -> AsyncIterator[Any]:
            async with transaction(conn):
                yield conn

        @app.post("/{number}")
        async def write(
            number: int, conn: Annotated[Any, Depends(unit_of_work, scope=scope)]
        ) -> str:
            await execute(conn, table.insert(number))
            return "ok"

        @app.get("/")
        async def count(conn: Annotated[Any, Depends(any_db.master)]) -> str:
            await execute(conn, table.count)
            return "ok"

        response = await ask(app, "/1", "POST")
        assert (await ask(app, "/")).status == 200  # on the next lease
    rows = await pg_cluster.master.sql(table.rows)
    assert (response.status, rows) == ((200, "1") if scope == "function" else (500, ""))
    if scope != "function" and isinstance(any_db.pool, hasql.psycopg3.PoolManager):
        assert isinstance(response.error, psycopg.ProgrammingError)
    elif scope != "function":
        assert isinstance(response.error, ConfigurationError)
        assert 'Depends(..., scope="function")' in str(response.error)


@pytest.mark.parametrize("how", ["session", "begun session", "connection"])
@pytest.mark.parametrize("scope", SCOPES)
async def test_a_commit_after_the_response_is_an_error(
    sqlalchemy_db: Hasql[AsyncConnection],
    table: Table,
    pg_cluster: LocalCluster,
    scope: Scope,
    how: str,
) -> None:
    db = sqlalchemy_db
    async with serving(db) as app:

        async def unit_of_work(
            conn: Annotated[AsyncConnection, Depends(db.master)],
            session: Annotated[AsyncSession, Depends(db.session)],
        ) -> AsyncIterator[Any]:
            if how == "begun session":
                async with session.begin():
                    yield session
            else:
                used = conn if how == "connection" else session
                yield used
                await used.commit()

        @app.get("/")
        async def write(used: Annotated[Any, Depends(unit_of_work, scope=scope)]) -> str:
            await used.execute(text(table.insert(1)))
            return "ok"

        response = await ask(app, "/")
    rows = await pg_cluster.master.sql(table.rows)
    if scope == "function":
        assert (response.status, response.error, rows) == (200, None, "1")
    elif how == "begun session":
        assert (response.status, type(response.error)) == (500, ConfigurationError)
    else:
        assert isinstance(response.error, InvalidRequestError)
    assert (rows == "1") == (response.error is None)


async def test_who_commits_after_the_response_commits_nothing_of_another_request(
    pg_cluster: LocalCluster, table: Table
) -> None:
    """psycopg's pool hands out the same object to one request after the other."""
    sizes = {"min_size": 1, "max_size": 1}
    db = Hasql(hasql.psycopg3.PoolManager(pg_cluster.dsn, pool_factory_kwargs=sizes))
    answered, written, tried = asyncio.Event(), asyncio.Event(), asyncio.Event()
    connections: list[Any] = []
    async with serving(db) as app:

        async def commits_late(conn: Annotated[Any, Depends(db.master)]) -> AsyncIterator[Any]:
            yield conn
            answered.set()
            await written.wait()
            try:
                await conn.commit()
            finally:
                tried.set()

        @app.get("/late")
        async def late(conn: Annotated[Any, Depends(commits_late)]) -> str:
            connections.append(conn)
            await conn.execute(table.insert(1))
            return "ok"

        @app.get("/other")
        async def other(conn: Annotated[Any, Depends(db.master)]) -> None:
            connections.append(conn)
            await conn.execute(table.insert(2))
            written.set()
            await tried.wait()
            raise HTTPException(409)

        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(ask(app, "/late"))
            await answered.wait()
            second = tasks.create_task(ask(app, "/other"))
    assert connections[0] is connections[1]
    assert await pg_cluster.master.sql(table.rows) == "1"
    assert (first.result().status, second.result().status) == (200, 409)
    assert isinstance(first.result().error, UnknownConnectionError)


# Sessions


async def test_a_session_is_on_the_requests_connection_and_commits_when_told_to(
    sqlalchemy_db: Hasql[AsyncConnection], table: Table, pg_cluster: LocalCluster
) -> None:
    db = sqlalchemy_db
    sessions: list[AsyncSession] = []
    async with serving(db) as app:

        @app.get("/{commits}")
        async def endpoint(
            commits: bool,
            conn: Annotated[AsyncConnection, Depends(db.master)],
            session: Annotated[AsyncSession, Depends(db.session)],
            same: Annotated[AsyncSession, Depends(db.session, scope="function")],
            reads: Annotated[AsyncSession, Depends(db.read_session)],
        ) -> list[bool]:
            assert same is session
            assert not session.sync_session.expire_on_commit
            sessions.extend([session, reads])
            assert held(db.pool) == 2
            await conn.execute(text(table.insert(10 + commits)))
            await session.execute(text(table.insert(20 + commits)))
            if commits:
                await session.commit()
            await session.execute(text(table.insert(30 + commits)))
            return [
                bool((await each.execute(text(IN_RECOVERY))).scalar()) for each in (session, reads)
            ]

        answers = [await ask(app, f"/{each}", watch=lambda: held(db.pool)) for each in (1, 0)]
    assert [each.json for each in answers] == [[False, True]] * 2
    assert not any(session.in_transaction() for session in sessions)
    assert {count for each in answers for count in each.watched} == {0}
    assert (await pg_cluster.master.sql(f"{table.rows} ORDER BY i")).split() == ["11", "21"]


async def test_access_gives_sessions_of_their_own(
    sqlalchemy_db: Hasql[AsyncConnection], table: Table, pg_cluster: LocalCluster
) -> None:
    async with serving(sqlalchemy_db) as app:

        @app.get("/")
        async def endpoint(access: Annotated[Access, Depends(sqlalchemy_db.access)]) -> bool | None:
            async with access.session() as session:
                await session.execute(text(table.insert(1)))
                await session.commit()
            async with access.read_session() as session:
                return cast("bool | None", await session.scalar(text(IN_RECOVERY)))

        assert (await ask(app, "/")).json is True
    assert await pg_cluster.master.sql(table.rows) == "1"


async def test_a_session_needs_connections_of_sqlalchemys(db: Hasql[Any]) -> None:
    async with serving(db) as app:

        @app.get("/")
        async def endpoint(session: Annotated[AsyncSession, Depends(db.session)]) -> None: ...

        response = await ask(app, "/")
    assert isinstance(response.error, ConfigurationError)
    assert "hasql.asyncsqlalchemy" in str(response.error)
    assert "hasql.asyncpg.PoolManager" in str(response.error)


# No master, no host


async def test_it_starts_while_no_host_answers(unused_ports: tuple[int, int]) -> None:
    one, other = unused_ports
    dsn = f"postgresql://app@127.0.0.1:{one},127.0.0.1:{other}/app"
    db = Hasql(PoolManager(dsn, acquire_timeout=0.05))
    app = FastAPI()
    app.include_router(db.health)
    async with serving(db, app=app):

        @app.get("/")
        async def endpoint(conn: Annotated[Any, Depends(db.master)]) -> None: ...

        @app.get("/lazily")
        async def lazily(access: Annotated[Access, Depends(db.access)]) -> None:
            async with access.master():
                pass

        @app.websocket("/websocket/{accepts}")
        async def websocket(
            websocket: WebSocket, accepts: bool, access: Annotated[Access, Depends(db.access)]
        ) -> None:
            if accepts:
                await websocket.accept()
            async with access.replica():
                pass

        health = {"default": {"masters": 0, "replicas": 0}}
        live, ready = await ask(app, "/health/live"), await ask(app, "/health/ready")
        assert (live.status, live.json) == (200, {"status": "ok", "clusters": health})
        assert (ready.status, ready.json) == (503, {"status": "unavailable", "clusters": health})
        assert ready.headers["cache-control"] == "no-store"

        for path in ("/", "/lazily"):
            response = await ask(app, path)
            assert (response.status, response.error) == (503, None)
            assert response.headers["retry-after"] == "1"
            assert "127.0.0.1" not in response.body.decode()

        denial = {**WEBSOCKET, "extensions": {"websocket.http.response": {}}}
        denied = await ask(app, "/websocket/0", scope=denial)
        assert (denied.status, denied.headers["retry-after"]) == (503, "1")
        for accepts in (0, 1):
            closed = await ask(app, f"/websocket/{accepts}", scope=WEBSOCKET)
            assert closed.messages[-1]["code"] == 1013

        @app.exception_handler(TimeoutError)
        async def handle(_: Request, error: Exception) -> PlainTextResponse:
            assert isinstance(error, NotAvailableError)
            return PlainTextResponse("mine", 504)

        app.middleware_stack = app.build_middleware_stack()
        assert (await ask(app, "/")).status == 504


class Asking:
    """A middleware that takes a connection for each request, as one that identifies users does."""

    def __init__(self, app: ASGIApp, pool: BasePoolManager[Any, Any], late: bool) -> None:
        self._app = app
        self._pool = pool
        self._late = late

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if self._late:
            await self._app(scope, receive, send)
        if scope["type"] == "http":
            async with self._pool.acquire_replica():
                pass
        await self._app(scope, receive, send)


@pytest.fixture
def nowhere(unused_ports: tuple[int, int]) -> Hasql[Any]:
    """The extension over a cluster where no server answers."""
    dsn = f"postgresql://app@127.0.0.1:{unused_ports[0]}/app"
    return Hasql(PoolManager(dsn, acquire_timeout=0.05))


@pytest.mark.parametrize(
    ("kind", "before", "base"),
    [(FastAPI, True, True), (FastAPI, False, False), (Starlette, True, False)],
)
async def test_no_host_for_a_middleware_is_a_503(
    nowhere: Hasql[Any], kind: Any, before: bool, base: bool
) -> None:
    app = kind()

    async def dispatch(request: Request, call_next: Any) -> Any:
        async with nowhere.pool.acquire_replica():
            return await call_next(request)

    def add() -> None:
        if base:
            app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
        else:
            app.add_middleware(Asking, pool=nowhere.pool, late=False)

    if before:
        add()
    async with serving(nowhere, app=app):
        if not before:
            add()
        for _ in range(2):
            response = await ask(app, "/")
            assert (response.status, response.error) == (503, None)
            assert response.headers["retry-after"] == "1"
        assert len(app.user_middleware) == 1


@pytest.mark.parametrize("handled", [TimeoutError, 503])
async def test_no_host_for_a_middleware_is_the_applications_to_handle(
    nowhere: Hasql[Any], handled: Any
) -> None:
    app = FastAPI()
    app.add_middleware(Asking, pool=nowhere.pool, late=False)

    @app.exception_handler(handled)
    async def handle(_: Request, error: Exception) -> PlainTextResponse:
        assert isinstance(error, handled if handled is TimeoutError else HTTPError)
        return PlainTextResponse("mine", 504)

    async with serving(nowhere, app=app):
        assert (await ask(app, "/")).status == 504


async def test_what_a_middleware_raises_behind_the_response_is_its_servers_to_see(
    nowhere: Hasql[Any],
) -> None:
    app = FastAPI()
    app.add_middleware(Asking, pool=nowhere.pool, late=True)
    async with serving(nowhere, app=app):
        response = await ask(app, "/none")
    assert response.status == 404
    assert isinstance(response.error, NotAvailableError)


async def test_a_handler_that_finds_no_host_either_is_called_once(nowhere: Hasql[Any]) -> None:
    app = FastAPI()
    seen: list[Exception] = []

    @app.get("/")
    async def endpoint(conn: Annotated[Any, Depends(nowhere.master)]) -> None: ...

    @app.exception_handler(503)
    async def handle(_: Request, error: Exception) -> PlainTextResponse:
        seen.append(error)
        async with nowhere.pool.acquire_replica():
            return PlainTextResponse("mine", 504)

    async with serving(nowhere, app=app):
        response = await ask(app, "/")
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("/no_such_database", asyncpg.InvalidCatalogNameError),
        ("/app?sslmode=verify-full&sslrootcert=/no/such/file", ConfigurationError),
    ],
)
async def test_what_can_never_work_fails_the_start(
    pg_cluster: LocalCluster, wrong: str, error: type[Exception]
) -> None:
    db = Hasql(PoolManager(pg_cluster.dsn.rpartition("/app")[0] + wrong))
    with pytest.raises(error):
        async with db.lifespan(FastAPI()):
            pytest.fail("it has started")
    assert db.pool.closed


async def test_health_tells_of_every_cluster_of_the_application(pg_cluster: LocalCluster) -> None:
    db = Hasql(PoolManager(pg_cluster.dsn))
    reports = Hasql(PoolManager(pg_cluster.replicas[0].dsn), name="reports")
    app = FastAPI()
    app.include_router(db.health, prefix="/internal")
    async with serving(reports, db, app=app):

        @app.get("/")
        async def endpoint(
            conn: Annotated[Any, Depends(db.master)], read: Annotated[Any, Depends(reports.replica)]
        ) -> list[bool]:
            return [await each.fetchval(IN_RECOVERY) for each in (conn, read)]

        await db.pool.ready(1, 2)
        await reports.pool.ready(0, 1)
        response = await ask(app, "/internal/health/ready")
        assert (response.status, response.json["clusters"]) == (
            503,
            {
                "default": {"masters": 1, "replicas": 2},
                "reports": {"masters": 0, "replicas": 1},
            },
        )
        assert (await ask(app, "/")).json == [False, True]
        schema = (await ask(app, "/openapi.json")).json
        assert "HealthReport" in schema["components"]["schemas"]


# The lifespan, and what an application may forget


async def test_another_lifespan_runs_inside_and_its_state_is_the_applications(
    db: Hasql[Any], pg_cluster: LocalCluster, application: str
) -> None:
    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with db.pool.acquire_master() as conn:
            yield {"title": app.title, "one": await conn.fetchval("SELECT 1")}
        assert not db.pool.closing

    app = FastAPI(title="mine", lifespan=db.lifespan_with(own))
    async with app.router.lifespan_context(app) as state:
        assert state == {"title": "mine", "one": 1}
    assert db.pool.closed
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)
    with pytest.raises(PoolManagerClosedError, match="new application"):
        async with db.lifespan(app):
            pytest.fail("it has started")


async def test_what_was_forgotten_is_named(db: Hasql[Any]) -> None:
    app = FastAPI()

    @app.get("/master")
    async def endpoint(conn: Annotated[Any, Depends(db.master)]) -> None: ...

    @app.get("/access")
    async def lazily(access: Annotated[Access, Depends(db.access)]) -> None: ...

    for path in ("/master", "/access"):
        error = (await ask(app, path)).error
        assert isinstance(error, ConfigurationError)
        assert "FastAPI(lifespan=db.lifespan)" in str(error)
    async with db.lifespan(app):
        for path in ("/master", "/access"):
            error = (await ask(app, path)).error
            assert isinstance(error, ConfigurationError)
            assert "db.install(app)" in str(error)
        db.install(app)  # this is not too late
        db.install(app)  # and may be repeated
        assert (await ask(app, "/master")).status == 200


async def test_dependencies_are_overridden_as_any(db: Hasql[Any]) -> None:
    app = FastAPI()

    @app.get("/")
    async def endpoint(conn: Annotated[Any, Depends(db.master)]) -> str:
        return str(conn)

    app.dependency_overrides[db.master] = lambda: "a fake"
    assert (await ask(app, "/")).json == "a fake"


def test_what_is_no_async_pool_manager_is_refused() -> None:
    for_threads = hasql.sync.psycopg3.PoolManager("postgresql://app@db1/app")
    for wrong in (for_threads, object(), None, PoolManager):
        with pytest.raises(ConfigurationError, match="needs an async PoolManager"):
            Hasql(cast("Any", wrong))
    pool = PoolManager("postgresql://app@db1/app")
    with pytest.raises(ConfigurationError, match="empty"):
        Hasql(pool, name="")
    with pytest.raises(TypeError, match="FastAPI or Starlette"):
        Hasql(pool).install(cast("Any", object()))


def test_two_clusters_of_an_application_have_two_names() -> None:
    app = FastAPI()
    one, other = (Hasql(PoolManager("postgresql://app:secret@db1/app")) for _ in range(2))
    one.install(app)
    with pytest.raises(ConfigurationError, match="another name"):
        other.install(app)
    other.install(FastAPI())
    assert "secret" not in repr(one)
