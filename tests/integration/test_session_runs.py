"""Units of work run in sessions behind a pooler, and on a master that stands in for a replica."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from hasql import asyncsqlalchemy
from hasql.resilience import SessionDefaults
from hasql.sync import sqlalchemy
from testbed.kits.asyncsqlalchemy import SqlalchemyAsyncpgKit, SqlalchemyPsycopgKit
from testbed.middlemen.addresses import dsn_through
from testbed.sync_kits import SqlalchemyPsycopg2ThreadKit, SqlalchemyPsycopgThreadKit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from hasql.testing import LocalCluster
    from tests.middlemen import StartPgBouncer

pytestmark = pytest.mark.usefixtures("nothing_unheard")

SETTLED = SessionDefaults(statement_timeout=5, enforce_read_only=True)
LIMIT = text("SHOW statement_timeout")
#: Statements routed as reads: two that are reads, and one that only claims to be.
READ_LIMIT = LIMIT.execution_options(hasql_route="replica")
IS_READ_ONLY = text("SHOW transaction_read_only").execution_options(hasql_route="replica")
OOPS = text("CREATE TABLE oops (id int)").execution_options(hasql_route="replica")
#: The `route` of a maker, the `read_only` of a run, and whether its first read is read-only.
WAYS: Sequence[tuple[Any, bool | None, str]] = (
    ("explicit", None, "off"),
    ("explicit", True, "on"),
    ("auto", None, "on"),
    ("auto", True, "on"),
    ("auto", False, "off"),
)
SHOWN = "5s", "5s"

TASKS = pytest.mark.parametrize(
    "engine_kit", [SqlalchemyAsyncpgKit(), SqlalchemyPsycopgKit()], ids=["asyncpg", "psycopg"]
)
THREADS = pytest.mark.parametrize(
    "engine_kit",
    [SqlalchemyPsycopgThreadKit(), SqlalchemyPsycopg2ThreadKit()],
    ids=["psycopg", "psycopg2"],
)


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: the loop makes no difference to a pooler."""
    return "asyncio", {"use_uvloop": False}


def of_manager(kit: Any) -> dict[str, Any]:
    """Return arguments for a manager whose master serves reads although there is a replica."""
    return {
        "session": SETTLED,
        "acquire_timeout": 5,
        "master_as_replica_weight": 1.0,
        "pool_factory_kwargs": {**kit.sizes(1, 1), **kit.unprepared},
    }


async def show(session: AsyncSession) -> tuple[str, ...]:
    """Read where the run begins, and then read where it would write."""
    begun = await session.scalar(IS_READ_ONLY)
    return begun, await session.scalar(READ_LIMIT), await session.scalar(LIMIT)


async def write(session: AsyncSession) -> None:
    await session.execute(OOPS)


def show_in_thread(session: Session) -> tuple[str, ...]:
    return session.scalar(IS_READ_ONLY), session.scalar(READ_LIMIT), session.scalar(LIMIT)


def write_in_thread(session: Session) -> None:
    session.execute(OOPS)


@TASKS
async def test_a_run_sets_in_its_transaction_what_a_pooler_does_not_take(
    engine_kit: Any, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    pooler = pgbouncer(pg_cluster.master, pool_mode="transaction", default_pool_size=1)
    dsn = engine_kit.dsn(dsn_through(pg_cluster, pooler, pg_cluster.replicas[0]))
    async with asyncsqlalchemy.PoolManager(dsn, **of_manager(engine_kit)) as manager:
        await manager.ready(1, 1)
        for route, read_only, begun in WAYS:
            sessions = asyncsqlalchemy.async_sessionmaker(manager, route=route)
            assert await sessions.run(show, read_only=read_only) == (begun, *SHOWN)


@THREADS
async def test_a_run_of_a_thread_sets_in_its_transaction_what_a_pooler_does_not_take(
    engine_kit: Any, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    def work(dsn: str) -> None:
        with sqlalchemy.PoolManager(dsn, **of_manager(engine_kit)) as manager:
            manager.ready(1, 1)
            for route, read_only, begun in WAYS:
                sessions = sqlalchemy.sessionmaker(manager, route=route)
                assert sessions.run(show_in_thread, read_only=read_only) == (begun, *SHOWN)

    pooler = pgbouncer(pg_cluster.master, pool_mode="transaction", default_pool_size=1)
    await asyncio.to_thread(
        work, engine_kit.dsn(dsn_through(pg_cluster, pooler, pg_cluster.replicas[0]))
    )


@TASKS
async def test_a_run_that_reads_on_a_guarded_master_does_not_write(
    engine_kit: Any, pg_cluster: LocalCluster
) -> None:
    async with asyncsqlalchemy.PoolManager(
        engine_kit.dsn(pg_cluster.dsn), **of_manager(engine_kit)
    ) as manager:
        await manager.ready(1, 2)
        sessions = asyncsqlalchemy.async_sessionmaker(manager, route="auto")
        with pytest.raises(DBAPIError, match="read-only transaction"):
            await sessions.run(write)
        assert await sessions.run(show) == ("on", *SHOWN)


@THREADS
def test_a_run_of_a_thread_that_reads_on_a_guarded_master_does_not_write(
    engine_kit: Any, pg_cluster: LocalCluster
) -> None:
    with sqlalchemy.PoolManager(
        engine_kit.dsn(pg_cluster.dsn), **of_manager(engine_kit)
    ) as manager:
        manager.ready(1, 2)
        sessions = sqlalchemy.sessionmaker(manager, route="auto")
        with pytest.raises(DBAPIError, match="read-only transaction"):
            sessions.run(write_in_thread)
        assert sessions.run(show_in_thread) == ("on", *SHOWN)
