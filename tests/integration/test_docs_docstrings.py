"""The examples in docstrings run, given the names that their readers have imported."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
import flask
import pytest
import sqlalchemy
from fastapi import Depends, FastAPI
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import hasql.asyncpg
import hasql.asyncsqlalchemy
import hasql.contrib.fastapi
import hasql.contrib.flask
import hasql.sync.sqlalchemy
from testbed.scene import empty_database, until_replicated
from testbed.web.asgi import ask

if TYPE_CHECKING:
    from hasql.testing import LocalCluster

pytestmark = pytest.mark.loops_in_turn

DSN = "postgresql://app@db1,db2,db3/app"


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "example_user"
    id: Mapped[int] = mapped_column(primary_key=True)


def example_of(shown: object, dsn: str) -> Any:
    """Compile the literal block of a docstring, with this DSN in place of its own."""
    found = re.search(r"::\n\n((?:    .*\n|\n)+)", f"{inspect.getdoc(shown)}\n")
    assert found
    code = textwrap.dedent(found[1]).replace(DSN, dsn)
    return compile(code, str(shown), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def run(example: Any, names: dict[str, Any]) -> dict[str, Any]:
    """Run an example; return its names, including those that it has defined."""
    outcome = eval(example, names)  # noqa: S307  # our own docstrings
    if example.co_flags & inspect.CO_COROUTINE:
        await outcome
    return names


@pytest.fixture
async def dsn(pg_cluster: LocalCluster) -> str:
    """The DSN of a cluster with a table `visits` that has two rows on every host."""
    await empty_database(pg_cluster.master)
    await pg_cluster.master.sql(
        "CREATE TABLE visits AS SELECT 1 FROM generate_series(1, 2);"
        "CREATE TABLE example_user (id serial PRIMARY KEY);"
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO app;"
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app"
    )
    await until_replicated(pg_cluster)
    return pg_cluster.dsn


async def test_that_of_flask(dsn: str) -> None:
    names: dict[str, Any] = {
        "Flask": flask.Flask,
        "Hasql": hasql.contrib.flask.Hasql,
        "blueprint": flask.Blueprint("visits", __name__),
        "__name__": __name__,
    }
    names = await run(example_of(hasql.contrib.flask, dsn), names)

    def answer() -> Any:
        app = names["create_app"]()
        app.register_blueprint(names["blueprint"])
        try:
            with app.app_context():
                names["db"].manager().ready(1, 2)
            return app.test_client().get("/visits").json
        finally:
            with app.app_context():
                names["db"].close()

    assert await asyncio.to_thread(answer) == {"visits": 2}


async def test_that_of_fastapi(dsn: str) -> None:
    names: dict[str, Any] = {
        "Annotated": Annotated,
        "Depends": Depends,
        "FastAPI": FastAPI,
        "Hasql": hasql.contrib.fastapi.Hasql,
        "PoolManager": hasql.asyncpg.PoolManager,
        "asyncpg": asyncpg,
        "__name__": __name__,
    }
    names = await run(example_of(hasql.contrib.fastapi, dsn), names)
    app = names["app"]
    async with app.router.lifespan_context(app):
        await names["db"].pool.ready(1, 2)
        answer = await ask(app, "/visits")
    assert (answer.status, answer.json) == (200, 2)


async def test_that_of_sessions_of_tasks(dsn: str) -> None:
    async with hasql.asyncsqlalchemy.PoolManager(dsn) as manager:
        await manager.ready(1, 2)
        names: dict[str, Any] = {"async_sessionmaker": hasql.asyncsqlalchemy.async_sessionmaker}
        example = example_of(hasql.asyncsqlalchemy.async_sessionmaker, dsn)
        names = await run(example, {**names, **of_sessions(manager)})
        async with names["Session"]() as session:
            assert await session.scalar(sqlalchemy.select(User.id)) is not None


async def test_that_of_sessions_of_threads(dsn: str) -> None:
    def work() -> None:
        with hasql.sync.sqlalchemy.PoolManager(dsn) as manager:
            manager.ready(1, 2)
            names = {"sessionmaker": hasql.sync.sqlalchemy.sessionmaker, **of_sessions(manager)}
            exec(example_of(hasql.sync.sqlalchemy.sessionmaker, dsn), names)  # noqa: S102  # as above
            with names["Session"]() as session:
                assert session.scalar(sqlalchemy.select(User.id)) is not None

    await asyncio.to_thread(work)


def of_sessions(manager: object) -> dict[str, Any]:
    return {
        "pool_manager": manager,
        "select": sqlalchemy.select,
        "User": User,
        "user": User(),
    }
