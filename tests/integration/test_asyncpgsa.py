"""What asyncpgsa adds to asyncpg, on real servers; the rest is in the suite of all drivers."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

if not version("sqlalchemy").startswith("1.4."):
    pytest.skip(
        "asyncpgsa needs SQLAlchemy 1.4: `make test` runs this in an environment of its own",
        allow_module_level=True,
    )

import asyncpgsa.connection
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from hasql import ConfigurationError
from hasql.asyncpgsa import PoolManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hasql.testing import LocalCluster

METADATA = sa.MetaData()
VISITS = sa.Table(
    "visits",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("page", sa.Text),
)
# asyncpgsa cannot compile `VISITS.insert()` of SQLAlchemy 1.4.
VISIT = sa.text("INSERT INTO visits VALUES (:id, :page)")


@pytest.fixture
async def manager(pg_cluster: LocalCluster) -> AsyncIterator[PoolManager]:
    async with PoolManager(pg_cluster.dsn) as manager:
        async with manager.acquire_master() as connection:
            await connection.execute(sa.schema.DropTable(VISITS, if_exists=True))
            await connection.execute(sa.schema.CreateTable(VISITS))
            for number, page in (1, "/a"), (2, "/b"):
                await connection.execute(VISIT.bindparams(id=number, page=page))
        yield manager


async def test_expressions_are_executed_through_a_lease(manager: PoolManager) -> None:
    query = sa.select(VISITS.c.page).order_by(VISITS.c.id)
    lent = await manager.acquire_master()
    assert [row["page"] for row in await lent.fetch(VISITS.select())] == ["/a", "/b"]
    await manager.release(lent)
    async with manager.acquire_master() as connection:
        assert [row["page"] for row in await connection.fetch(query)] == ["/a", "/b"]
        row = await connection.fetchrow(VISITS.select().where(VISITS.c.id == 2))
        assert row is not None
        assert dict(row) == {"id": 2, "page": "/b"}
        assert await connection.fetchval(sa.select(sa.func.count()).select_from(VISITS)) == 2
        assert await connection.execute(VISITS.delete().where(VISITS.c.id == 1)) == "DELETE 1"
        async with connection.transaction():
            assert [row["id"] async for row in connection.cursor(VISITS.select())] == [2]
        assert await connection.fetchval("SELECT page FROM visits WHERE id = $1", 2) == "/b"


async def test_a_transaction_of_expressions_is_rolled_back(manager: PoolManager) -> None:
    with pytest.raises(KeyError):
        async with manager.acquire_master() as connection, connection.transaction():
            await connection.execute(VISITS.delete())
            raise KeyError
    async with manager.acquire_master() as connection:
        assert await connection.fetchval(sa.select(sa.func.count()).select_from(VISITS)) == 2


async def test_dialect_and_connection_class_go_to_asyncpgsa(pg_cluster: LocalCluster) -> None:
    class Own(asyncpgsa.connection.SAConnection):  # type: ignore[misc]  # asyncpgsa has no types
        made: list[Any] = []  # noqa: RUF012  # the class is the only place the test can look at

        def __init__(self, *args: Any, dialect: Any = None, **kwargs: Any) -> None:
            self.made.append(dialect)
            super().__init__(*args, dialect=dialect, **kwargs)

    dialect = asyncpgsa.connection.get_dialect(json_serializer=lambda _: '"ours"')
    kwargs = {"dialect": dialect, "connection_class": Own, "min_size": 1, "max_size": 1}
    async with PoolManager(pg_cluster.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 2)
        async with manager.acquire_replica() as connection:
            value = sa.literal({"theirs": 1}, JSONB)
            assert await connection.fetchval(sa.select(value)) == '"ours"'
    assert dialect in Own.made


def test_an_unknown_argument_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'dialect'"):
        PoolManager("postgresql://db1/app", pool_factory_kwargs={"dialekt": None})


def test_newer_sqlalchemy_is_explained() -> None:
    # SQLAlchemy 2 no longer has the dialect on which asyncpgsa is built.
    program = """
import sys
import sqlalchemy.dialects.postgresql as postgresql

del postgresql.pypostgresql
sys.modules["sqlalchemy.dialects.postgresql.pypostgresql"] = None
try:
    import hasql.asyncpgsa
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert "MissingExtraError" in done.stdout, done.stdout + done.stderr
    assert "SQLAlchemy 1.4" in done.stdout
    assert "pip install 'hasql[asyncpgsa]'" in done.stdout
