"""Programs that users of the driver modules have written already go on working, unchanged.

The programs are copied from the README of the library whose names hasql keeps. A test changes only
what they cannot know: hosts, user, password and database. It also supplies `asyncio`, which one of
them uses without importing it. Everything else stands as users have it.
"""

from __future__ import annotations

import asyncio
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from hasql.cluster.dsn import Dsn

if TYPE_CHECKING:
    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster

READY = """
from hasql.{module} import PoolManager

hosts = ",".join([
    "master-host:5432",
    "replica-host-1:5432",
    "replica-host-2:5432",
])

multihost_dsn = f"postgresql://user:password@{{hosts}}/dbname"

async def create_pool(dsn) -> PoolManager:
    pool = PoolManager(multihost_dsn)

    # Waiting for 1 master and 1 replica will be available
    await pool.ready(masters_count=1, replicas_count=1)
    return pool
"""

AIOPG = READY.format(module="aiopg")
AIOPG_SA = READY.format(module="aiopg_sa")
ASYNCPG = READY.format(module="asyncpg")
PSYCOPG3 = READY.format(module="psycopg3")

SQLALCHEMY = """
from hasql.asyncsqlalchemy import PoolManager

hosts = ",".join([
    "master-host:5432",
    "replica-host-1:5432",
    "replica-host-2:5432",
])

multihost_dsn = f"postgresql://user:password@{hosts}/dbname"


async def create_pool(dsn) -> PoolManager:
    pool = PoolManager(
        multihost_dsn,

        # Use master for acquire_replica, if no replicas available
        fallback_master=True,

        # You can pass pool-specific options
        pool_factory_kwargs=dict(
            pool_size=10,
            max_overflow=5
        )
    )

    # Waiting for 1 master and 1 replica will be available
    await pool.ready(masters_count=1, replicas_count=1)
    return pool
"""

ASYNCPGSA = """
from hasql.asyncpgsa import PoolManager

hosts = ",".join([
    "master-host:5432",
    "replica-host-1:5432",
    "replica-host-2:5432",
])

multihost_dsn = f"postgresql://user:password@{hosts}/dbname"

async def create_pool(dsn) -> PoolManager:
    pool = PoolManager(multihost_dsn)

    # Waiting for 1 master and 1 replica will be available
    await asyncio.gather(
        pool.wait_masters_ready(1),
        pool.wait_replicas_ready(1)
    )
    return pool
"""

#: The programs for each major version of SQLAlchemy: two of the libraries need the older one.
PROGRAMS = {
    "1": {"aiopg_sa": AIOPG_SA, "asyncpgsa": ASYNCPGSA},
    "2": {"aiopg": AIOPG, "asyncpg": ASYNCPG, "sqlalchemy": SQLALCHEMY, "psycopg3": PSYCOPG3},
}[version("sqlalchemy").split(".")[0]]

ACQUIRING = {
    "acquire": """
async def do_something():
    pool = await create_pool(multihost_dsn)
    async with pool.acquire(read_only=False) as connection:
        ...
""",
    "acquire_master": """
async def do_something():
    pool = await create_pool(multihost_dsn)
    async with pool.acquire_master() as connection:
        ...
""",
    "acquire read only": """
async def do_something():
    pool = await create_pool(multihost_dsn)
    async with pool.acquire(read_only=True) as connection:
        ...
""",
    "acquire_replica": """
async def do_something():
    pool = await create_pool(multihost_dsn)
    async with pool.acquire_replica() as connection:
        ...
""",
    "await": """
async def do_something():
    pool = await create_pool(multihost_dsn)
    connection = await pool.acquire(read_only=False)
    await pool.release(connection)
""",
    "await and finally": """
async def do_something():
    pool = await create_pool(multihost_dsn)
    try:
        connection = await pool.acquire(read_only=False)
    finally:
        await pool.release(connection)
""",
}


def defined_by(source: str, dsn: str) -> dict[str, Any]:
    """Replace the README's DSN with the cluster's, and return what the source defines."""
    parsed = Dsn.parse(dsn)
    hosts = iter(parsed.hosts)
    source = re.sub(r'"(?:master|replica)-host[-\d]*:5432"', lambda _: f'"{next(hosts)}"', source)
    source = source.replace("user:password@", f"{parsed.user}:{parsed.password}@")
    source = source.replace("/dbname", "/app")
    assert next(hosts, None) is None
    namespace: dict[str, Any] = {"asyncio": asyncio}
    exec(source, namespace)  # noqa: S102  # the programs above
    return namespace


async def run(namespace: dict[str, Any]) -> None:
    """Run the program, and check the pool manager that it leaves behind."""
    pools: list[BasePoolManager[Any, Any]] = []
    create_pool = namespace["create_pool"]

    async def recorded(dsn: str) -> BasePoolManager[Any, Any]:
        pools.append(await create_pool(dsn))
        return pools[-1]

    namespace["create_pool"] = recorded
    await namespace["do_something"]()
    (pool,) = pools
    metrics = pool.metrics()
    assert metrics.acquires == 1
    assert not any(node.in_flight for node in metrics.nodes)


@pytest.mark.usefixtures("nothing_unheard")
@pytest.mark.parametrize(
    ("acquiring", "loop"),
    # Only one runs on the other event loop, too: each costs the connections of three pools.
    [*((each, asyncio.run) for each in ACQUIRING), ("acquire_master", uvloop.run)],
    ids=[*ACQUIRING, "acquire_master on uvloop"],
)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs_as_it_was_written(
    program: str, acquiring: str, loop: Any, pg_cluster: LocalCluster
) -> None:
    loop(run(defined_by(PROGRAMS[program] + ACQUIRING[acquiring], pg_cluster.dsn)))
