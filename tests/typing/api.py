"""What a user would write, for type checkers to read; nothing runs it.

`assert_type` says what each expression is known to be. A line that must be refused bears
``type: ignore`` with the error it must cause: mypy complains of one that is not needed.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, assert_type

import asyncpg
from asyncpg.pool import PoolConnectionProxy

import hasql
from hasql import (
    ConfigurationError,
    Exclusion,
    HasqlError,
    Health,
    HostSpec,
    NotAvailableError,
    PoolManagerClosedError,
    Role,
)
from hasql.asyncpg import PoolManager
from hasql.balancer_policy import BaseBalancerPolicy, CandidateT, RoundRobinBalancerPolicy
from hasql.cluster.dsn import Dsn
from hasql.discovery import (
    Ask,
    Discovered,
    Discovery,
    DnsDiscovery,
    SrvDiscovery,
    StaticDiscovery,
)
from hasql.dns import Resolver
from hasql.metrics import DiscoveryMetrics, Metrics, NodeMetrics
from hasql.resilience import Category, RetryPolicy, SessionDefaults
from hasql.testing import LocalCluster, LocalNode

Connection = PoolConnectionProxy[asyncpg.Record]
Pool = asyncpg.Pool[asyncpg.Record]


class First(BaseBalancerPolicy):
    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        assert_type(candidates[0].host, HostSpec)
        assert_type(candidates[0].free, int)
        assert_type(candidates[0].response_time, float | None)
        return candidates[0]


class Found(Discovery):
    async def watch(self) -> AsyncIterator[tuple[Discovered, ...]]:
        yield (Discovered(HostSpec("db1", 5432), never_master=True, weight=2, label="one"),)


class Asked(Discovery):
    async def watch(self, ask: Ask) -> AsyncIterator[tuple[Discovered, ...]]:
        for row in await ask("SELECT host, port FROM hosts"):
            assert_type(row, dict[str, Any])
            yield (Discovered(HostSpec(row["host"], row["port"]), priority=1),)

    def refresh(self) -> None:
        pass


def discovering() -> None:
    PoolManager("postgresql://app@/app", discovery=Found())
    PoolManager("postgresql://app@db1/app", discovery=Asked())
    PoolManager("postgresql://app@/app", discovery=SrvDiscovery("db.example.com"))
    PoolManager("postgresql://app@/app", discovery=DnsDiscovery("db", 6432, resolver=Resolver()))
    PoolManager("postgresql://app@/app", discovery=StaticDiscovery([HostSpec("db1", 5432)]))
    PoolManager("postgresql://app@/app", discovery=Found)  # type: ignore[arg-type]
    Discovered(HostSpec("db1", 5432), True)  # type: ignore[call-arg]
    Discovered("db1")  # type: ignore[arg-type]
    Discovery()  # type: ignore[abstract]


def constructing() -> None:
    PoolManager("postgresql://db1,db2/app")
    PoolManager("postgresql://db1,db2/app", 1, 1, 1, True, 0.5, First, 128, {"max_size": 5})
    PoolManager("postgresql://db1,db2/app", balancer_policy=First())
    PoolManager(
        "postgresql://db1,db2/app",
        acquire_timeout=1.5,
        refresh_delay=1,
        refresh_timeout=1,
        fallback_master=True,
        master_as_replica_weight=0.1,
        balancer_policy=RoundRobinBalancerPolicy,
        stopwatch_window_size=16,
        pool_factory_kwargs={"min_size": 1, "max_size": 5, "command_timeout": 3.0},
        lease_abort_after=None,
        release_timeout=2,
        fencing=False,
        allow_several_clusters=True,
        never_master=["db2", "db2:5433"],
    )


async def password() -> str:
    return "secret"


async def login() -> tuple[str, str]:
    return "app", "secret"


def setting_sessions(pool: PoolManager) -> None:
    session = SessionDefaults(statement_timeout=5, search_path=["app"], enforce_read_only=True)
    PoolManager("postgresql://db1/app", session=session, credentials=password)
    PoolManager("postgresql://db1/app", credentials=login)
    PoolManager("postgresql://db1/app", credentials=lambda: "secret")
    PoolManager("postgresql://db1/app", credentials=lambda: ("app", "secret"))
    PoolManager("postgresql://db1/app", credentials="secret")  # type: ignore[arg-type]
    PoolManager("postgresql://db1/app", credentials=lambda: 7)  # type: ignore[arg-type, return-value]
    PoolManager("postgresql://db1/app", session={"lock_timeout": 1})  # type: ignore[arg-type]
    SessionDefaults(statement_timeout="5s")  # type: ignore[arg-type]
    _ = pool.acquire_master(5, session)  # type: ignore[call-arg]


def constructing_wrongly() -> None:
    PoolManager()  # type: ignore[call-arg]
    PoolManager(["postgresql://db1/app"])  # type: ignore[arg-type]
    PoolManager("postgresql://db1/app", acquire_timeout="1")  # type: ignore[arg-type]
    PoolManager("postgresql://db1/app", acquire_timeout=None)  # type: ignore[arg-type]
    PoolManager("postgresql://db1/app", balancer_policy=dict)  # type: ignore[arg-type]
    PoolManager("postgresql://db1/app", pool_size=5)  # type: ignore[call-arg]
    PoolManager("postgresql://db1/app", 1, 1, 1, True, 0.5, First, 1, {}, 10.0)  # type: ignore[call-arg]


async def acquiring(pool: PoolManager) -> None:
    async with pool.acquire_master() as conn:
        assert_type(conn, Connection)
        await conn.execute("SELECT 1", timeout=1)
        assert_type(await conn.fetchrow("SELECT 1"), asyncpg.Record | None)
    async with pool.acquire_replica(fallback_master=True, timeout=1) as conn:
        assert_type(conn, Connection)
    async with pool.acquire(read_only=True, master_as_replica_weight=0.5) as conn:
        assert_type(conn, Connection)
    async with pool.acquire_replica(session=SessionDefaults(lock_timeout=1)) as conn:
        assert_type(conn, Connection)
    lent = await pool.acquire_replica()
    assert_type(lent, Connection)
    await pool.release(lent)
    assert_type(await pool.acquire(), Connection)
    assert_type(pool.is_connection_closed(lent), bool)


async def acquiring_wrongly(pool: PoolManager) -> None:
    with pool.acquire_master() as _:  # type: ignore[attr-defined]
        pass
    async with pool.acquire_master("soon") as _:  # type: ignore[arg-type]
        pass
    async with pool.acquire_master() as conn:
        conn.no_such_method()  # type: ignore[attr-defined]
    await pool.release("not a connection")  # type: ignore[arg-type]
    await pool.release(pool.acquire_master())  # type: ignore[arg-type]
    pool.close()  # type: ignore[unused-coroutine]


async def living() -> None:
    async with PoolManager("postgresql://db1,db2/app") as pool:
        assert_type(pool, PoolManager)
        await pool.ready()
        await pool.ready(1, 2)
        await pool.ready(masters_count=1, replicas_count=1, timeout=5)
        await pool.ready("1", 1)  # type: ignore[arg-type]
        await asyncio.gather(pool.wait_masters_ready(1), pool.wait_replicas_ready(1))
        await pool.wait_all_ready()
        await pool.wait_next_pool_check(timeout=1)
        pool.accept_timeline()
        await pool.close(timeout=1)
        await pool.terminate()
        assert_type(pool.closed, bool)
        assert_type(pool.closing, bool)


@asynccontextmanager
async def handed_on(pool: PoolManager) -> AsyncIterator[Connection]:
    async with pool.acquire_master() as conn, conn.transaction():
        yield conn


class Own(PoolManager):
    pass


async def subclassing() -> None:
    async with Own("postgresql://db1/app") as pool:
        assert_type(pool, Own)


async def pools(pool: PoolManager) -> None:
    assert_type(pool.pools, list[Pool])
    assert_type(list(pool), list[Pool])
    assert_type(await pool.get_master_pools(), list[Pool])
    assert_type(await pool.get_replica_pools(fallback_master=True), list[Pool])
    one = await pool.get_pool(read_only=True)
    _ = assert_type(one, Pool)
    assert_type(pool.pool_is_master(one), bool)
    assert_type(pool.pool_is_replica(one), bool)
    assert_type(pool.get_pool_freesize(one), int)
    assert_type(pool.get_last_response_time(one), float | None)
    assert_type(pool.host(one), str)
    async with pool.acquire_from_pool(one) as conn:
        assert_type(conn, Connection)
    taken = await one.acquire()
    pool.register_connection(taken, one)
    await pool.release_to_pool(taken, one)
    pool.host("db1")  # type: ignore[arg-type]
    assert_type(pool.dsn, Dsn)
    assert_type(pool.dsn.hosts, tuple[HostSpec, ...])
    assert_type(list(pool.dsn), list[Dsn])
    assert_type(pool.balancer, BaseBalancerPolicy)
    assert_type(pool.refresh_delay, float)
    assert_type(pool.master_pool_count + pool.replica_pool_count, int)
    assert_type(pool.available_pool_count, int)
    pool.refresh_delay = 2  # type: ignore[misc]


def metrics(pool: PoolManager) -> None:
    snapshot = pool.metrics()
    assert_type(snapshot.discovery, DiscoveryMetrics)
    assert_type(snapshot.discovery.hosts, tuple[HostSpec, ...])
    assert_type(snapshot.discovery.last_success, float | None)
    assert_type(snapshot, Metrics)
    assert_type(snapshot.acquires, int)
    assert_type(snapshot.acquire_seconds, float)
    assert_type(snapshot.nodes, tuple[NodeMetrics, ...])
    node = snapshot.nodes[0]
    assert_type(node.host, HostSpec)
    assert_type(node.role, Role)
    assert_type(node.health, Health)
    assert_type(node.exclusion, Exclusion | None)
    assert_type(node.lag_bytes, int | None)
    assert_type(node.response_time, float | None)
    snapshot.acquires = 0  # type: ignore[misc]


async def units_of_work(pool: PoolManager) -> None:
    async def count(conn: Connection) -> int:
        return int(await conn.fetchval("SELECT 1"))

    assert_type(await pool.run(count), int)
    assert_type(await pool.run(count, read_only=True, isolation="repeatable read"), int)
    await pool.run(count, retry=RetryPolicy(attempts=3), idempotent=True, resolve_commits=False)
    await pool.run(lambda conn: conn.execute("SELECT 1"))
    await pool.run(count, True)  # type: ignore[call-arg]
    await pool.run(len)  # type: ignore[arg-type]
    assert_type(pool.category(ValueError()), Category)
    assert_type(pool.retriable(ValueError()), bool)


async def errors(pool: PoolManager) -> str:
    try:
        await pool.acquire_master()
    except NotAvailableError as error:
        as_timeout: TimeoutError = error
        return str(as_timeout)
    except PoolManagerClosedError as error:
        as_hasql: HasqlError = error
        return str(as_hasql)
    except ConfigurationError as error:
        as_value: ValueError = error
        return str(as_value)
    except (hasql.WrongEventLoopError, hasql.UnknownConnectionError, hasql.MissingExtraError):
        return ""
    return hasql.__version__


async def testing(pg_cluster: LocalCluster) -> None:
    async with LocalCluster(replicas=1, version=16, source="wheel") as cluster:
        assert_type(cluster, LocalCluster)
        assert_type(cluster.dsn, str)
        assert_type(cluster.nodes, tuple[LocalNode, ...])
        assert_type(await cluster.switchover(), LocalNode)
    with LocalCluster(settings={"max_connections": "50"}, on_progress=print) as cluster:
        assert_type(cluster, LocalCluster)
    LocalCluster(source="registry")  # type: ignore[arg-type]
    LocalCluster(2)  # type: ignore[call-arg]
    pg_cluster.master.kill()
    await pg_cluster.replicas[0].promote()
    assert_type(await pg_cluster.master.sql("SELECT 1"), str)
    await pg_cluster.nodes[0].stop("slowly")  # type: ignore[arg-type]
