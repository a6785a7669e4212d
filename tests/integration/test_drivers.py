"""The public API, with every driver: what it accepts, returns, reports and refuses."""

from __future__ import annotations

import asyncio
import inspect
import re
from typing import TYPE_CHECKING, Any

import pytest

from hasql import (
    ConfigurationError,
    HasqlError,
    NotAvailableError,
    PoolManagerClosedError,
    UnknownConnectionError,
)
from hasql.balancer_policy import (
    BaseBalancerPolicy,
    GreedyBalancerPolicy,
    RandomWeightedBalancerPolicy,
    RoundRobinBalancerPolicy,
)
from hasql.cluster.dsn import Dsn
from testbed.scene import every_place_works, tasks_end, until_sessions

if TYPE_CHECKING:
    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit
    from testbed.scene import Table

    Manager = BasePoolManager[Any, Any]

NOWHERE = "postgresql://app:secret@db1,db2/app"


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: what these tests check is the same on any."""
    return "asyncio", {"use_uvloop": False}


# What it accepts

REQUIRED = inspect.Parameter.empty
CONSTRUCTOR = {
    "dsn": REQUIRED,
    "acquire_timeout": 1.0,
    "refresh_delay": 1.0,
    "refresh_timeout": 1.0,
    "fallback_master": False,
    "master_as_replica_weight": 0.0,
    "balancer_policy": GreedyBalancerPolicy,
    "stopwatch_window_size": 128,
    "pool_factory_kwargs": None,
    "lease_abort_after": 10.0,
    "release_timeout": 5.0,
    "fencing": True,
    "allow_several_clusters": False,
    "never_master": (),
    "follow_names": True,
    "resolver": None,
    "discovery": None,
    "session": None,
    "credentials": None,
    "lifecycle": None,
    "admission": None,
    "rate_limit": None,
    "breaker": None,
    "report_every": None,
}
REPLICA = {"fallback_master": None, "master_as_replica_weight": None, "timeout": None}
OWN_SESSION = {"session": None, "kwargs": REQUIRED}
METHODS: dict[str, dict[str, object]] = {
    "ready": {"masters_count": None, "replicas_count": None, "timeout": 10.0},
    "wait_all_ready": {},
    "wait_masters_ready": {"masters_count": REQUIRED},
    "wait_replicas_ready": {"replicas_count": REQUIRED},
    "acquire": {"read_only": False, **REPLICA, **OWN_SESSION},
    "acquire_master": {"timeout": None, **OWN_SESSION},
    "acquire_replica": {**REPLICA, **OWN_SESSION},
    "release": {"connection": REQUIRED, "kwargs": REQUIRED},
    "close": {"timeout": 10.0},
    "terminate": {},
    "wait_next_pool_check": {"timeout": 10.0},
    "get_pool": {"read_only": REQUIRED, "fallback_master": None},
    "get_master_pools": {},
    "get_replica_pools": {"fallback_master": False},
    "pool_is_master": {"pool": REQUIRED},
    "pool_is_replica": {"pool": REQUIRED},
    "get_pool_freesize": {"pool": REQUIRED},
    "get_last_response_time": {"pool": REQUIRED},
    "host": {"pool": REQUIRED},
    "acquire_from_pool": {"pool": REQUIRED, **OWN_SESSION},
    "release_to_pool": {"connection": REQUIRED, "pool": REQUIRED, "kwargs": REQUIRED},
    "is_connection_closed": {"connection": REQUIRED},
    "still_fits": {"connection": REQUIRED},
    "register_connection": {"connection": REQUIRED, "pool": REQUIRED},
    "metrics": {},
    "accept_timeline": {},
}


def parameters(function: Any) -> dict[str, object]:
    return {each.name: each.default for each in inspect.signature(function).parameters.values()}


def test_names_order_and_defaults_are_those_of_the_api(kit: Kit) -> None:
    manager = kit.manager(NOWHERE)
    constructor = parameters(type(manager))
    assert list(constructor.items()) == list(CONSTRUCTOR.items())
    for name, expected in METHODS.items():
        taken = parameters(getattr(manager, name))
        assert list(taken.items()) == list(expected.items()), name


def test_constructing_needs_no_loop_and_shows_no_password(kit: Kit) -> None:
    manager = kit.manager(NOWHERE, pool_factory_kwargs=kit.sizes(1, 3))
    assert type(manager).__module__ == kit.module
    assert "secret" not in f"{manager!r} {manager.dsn} {manager.dsn!r}"
    assert (manager.closing, manager.closed) == (False, False)
    assert (manager.pools, list(manager)) == ([], [])
    assert dict(manager.pool_factory_kwargs) == kit.sizes(1, 3)
    assert [node.pool_max for node in manager.metrics().nodes] == []


async def test_arguments_go_by_position_and_by_keyword(kit: Kit, pg_cluster: LocalCluster) -> None:
    sizes = kit.sizes(1, 2)
    for manager in (
        kit.manager(pg_cluster.dsn, 2, 0.3, 0.7, True, 1.0, RoundRobinBalancerPolicy, 16, sizes),
        kit.manager(
            pg_cluster.dsn,
            acquire_timeout=2,
            refresh_delay=0.3,
            refresh_timeout=0.7,
            fallback_master=True,
            master_as_replica_weight=1.0,
            balancer_policy=RoundRobinBalancerPolicy,
            stopwatch_window_size=16,
            pool_factory_kwargs=sizes,
        ),
    ):
        assert (manager.refresh_delay, manager.refresh_timeout) == (0.3, 0.7)
        assert isinstance(manager.balancer, RoundRobinBalancerPolicy)
        assert manager.pool_factory_kwargs == sizes
        async with manager:
            await manager.ready(1, 2)
            async with manager.acquire_replica() as connection:
                assert await kit.value(connection, "SELECT pg_is_in_recovery()") is False
            # Positional: read_only, fallback_master, master_as_replica_weight, timeout.
            async with manager.acquire(True, False, 0.0, 1) as connection:
                assert await kit.value(connection, "SELECT pg_is_in_recovery()") is True
            async with manager.acquire_replica(False, 0.0, 1) as connection:
                assert await kit.value(connection, "SELECT pg_is_in_recovery()") is True
            async with manager.acquire_master(1) as connection:
                assert await kit.value(connection, "SELECT pg_is_in_recovery()") is False


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"acquire_timeout": -1}, ConfigurationError),
        ({"acquire_timeout": "1"}, TypeError),
        ({"refresh_delay": 0}, ConfigurationError),
        ({"refresh_timeout": float("nan")}, ConfigurationError),
        ({"fallback_master": "no"}, TypeError),
        ({"master_as_replica_weight": 1.5}, ConfigurationError),
        ({"balancer_policy": dict}, ConfigurationError),
        ({"stopwatch_window_size": 0}, ConfigurationError),
        ({"pool_factory_kwargs": "max_size=5"}, TypeError),
        ({"lease_abort_after": -1}, ConfigurationError),
        ({"release_timeout": 0}, ConfigurationError),
        ({"never_master": ["db3"]}, ConfigurationError),
        ({"pool_size_": 5}, TypeError),
    ],
)
def test_arguments_that_cannot_work_fail_at_once(
    kit: Kit, kwargs: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        kit.manager(NOWHERE, **kwargs)
    assert "secret" not in str(caught.value)


def test_pool_arguments_that_cannot_work_fail_at_once(kit: Kit) -> None:
    misspelt = f"{kit.max_keyword}e"
    with pytest.raises(ConfigurationError, match=f"did you mean '{kit.max_keyword}'"):
        kit.manager(NOWHERE, pool_factory_kwargs={misspelt: 5})
    for kwargs in kit.contradictions():
        with pytest.raises(ConfigurationError, match=kit.max_keyword):
            kit.manager(NOWHERE, pool_factory_kwargs=kwargs)


# Waiting for hosts


async def test_every_way_to_wait_for_hosts(kit: Kit, pg_cluster: LocalCluster) -> None:
    manager = kit.manager(pg_cluster.dsn, pool_factory_kwargs=kit.sizes(1, 1))
    await manager.ready(1, 2)
    await manager.ready(masters_count=1, replicas_count=1, timeout=5)
    await manager.ready(0, 0)
    await manager.ready()
    await manager.ready(timeout=5)
    await manager.wait_all_ready()
    await asyncio.gather(manager.wait_masters_ready(1), manager.wait_replicas_ready(2))
    before = {node.host: node.unchanged_for for node in manager.metrics().nodes}
    await manager.wait_next_pool_check()
    await manager.wait_next_pool_check(timeout=5)
    assert all(node.unchanged_for > before[node.host] for node in manager.metrics().nodes)
    for wrong in ((1, None), (None, 1), (-1, 1), (1, -1)):
        with pytest.raises(ValueError, match="count"):
            await manager.ready(*wrong)
    with pytest.raises(NotAvailableError, match="3 masters and 0 replicas") as caught:
        await manager.ready(3, 0, timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    for node in pg_cluster.nodes:
        assert f"{node.host}:{node.port} up" in str(caught.value)
    await manager.close()


async def test_a_manager_in_a_block_serves_and_is_closed_behind_it(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    dsn = f"{pg_cluster.dsn}?application_name={application}"
    async with kit.manager(dsn, pool_factory_kwargs=kit.sizes(1, 1)) as manager:
        assert type(manager) is type(kit.manager(NOWHERE))
        assert manager.available_pool_count > 0
        assert not manager.closed
        await manager.ready()
    assert (manager.closing, manager.closed) == (True, True)
    assert list(manager) == []
    assert manager.available_pool_count == 0
    for call in (manager.ready, manager.acquire_master, manager.get_master_pools):
        with pytest.raises(PoolManagerClosedError):
            await call()
    await manager.close()
    await manager.terminate()
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)


async def test_nobody_reachable_names_all_hosts_and_no_password(
    kit: Kit, unused_ports: tuple[int, int]
) -> None:
    hosts = ",".join(f"127.0.0.1:{port}" for port in unused_ports)
    manager = kit.manager(f"postgresql://app:hidden@{hosts}/app", acquire_timeout=0.2)
    tasks = asyncio.all_tasks()
    waits = (
        (lambda: manager.ready(timeout=0.2), "all hosts"),
        (lambda: manager.ready(1, 0, timeout=0.2), "1 masters and 0 replicas"),
        (manager.acquire, "no connection to a master within 0.2 s"),
        (lambda: manager.acquire(True, timeout=0.1), "no connection to a replica within 0.1 s"),
        (lambda: manager.get_pool(False), "no connection to a master"),
        (lambda: manager.get_replica_pools(True), "no connection to a replica, or master"),
    )
    async with asyncio.timeout(20):
        for wait, words in waits:
            with pytest.raises(NotAvailableError, match=words) as caught:
                await wait()
            for port in unused_ports:
                assert f"127.0.0.1:{port} down" in str(caught.value)
            assert "hidden" not in str(caught.value)
        await manager.close()
    await tasks_end(tasks)


@pytest.mark.parametrize("change", [("@", "x@"), (r"/app$", "/nowhere")], ids=["login", "database"])
async def test_what_every_host_refuses_fails_at_once_with_the_servers_own_error(
    kit: Kit, pg_cluster: LocalCluster, change: tuple[str, str]
) -> None:
    dsn = re.sub(*change, pg_cluster.dsn)
    password = Dsn.parse(dsn).password
    assert password
    tasks = asyncio.all_tasks()
    manager = kit.manager(dsn)
    async with asyncio.timeout(20):
        with pytest.raises(Exception, match=r'"app"|"nowhere"') as caught:
            await manager.ready(timeout=60)
        assert not isinstance(caught.value, HasqlError)
        if change[0] == "@":
            assert isinstance(caught.value, kit.refused_login)
        assert password not in str(caught.value)
        await manager.close()
        manager = kit.manager(dsn)
        with pytest.raises(type(caught.value)):
            await manager.__aenter__()
    assert manager.closed
    await tasks_end(tasks)


# What is handed out


async def test_masters_and_replicas_are_what_was_asked_for(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster
) -> None:
    for lease in (manager.acquire(), manager.acquire(False), manager.acquire_master()):
        async with lease as connection:
            assert isinstance(connection, kit.connection_type)
            assert await kit.port(connection) == pg_cluster.master.port
            assert await kit.value(connection, "SELECT pg_is_in_recovery()") is False
    seen = set()
    for _ in range(20):
        for lease in (manager.acquire_replica(), manager.acquire(read_only=True)):
            async with lease as connection:
                assert isinstance(connection, kit.connection_type)
                assert await kit.value(connection, "SELECT pg_is_in_recovery()") is True
                seen.add(await kit.port(connection))
    assert seen == {node.port for node in pg_cluster.replicas}


async def test_await_and_release_is_the_other_way(kit: Kit, manager: Manager) -> None:
    for read_only in (False, True):
        connection = await manager.acquire(read_only)
        assert isinstance(connection, kit.connection_type)
        assert await kit.value(connection, "SELECT pg_is_in_recovery()") is read_only
        assert not manager.is_connection_closed(connection)
        await manager.release(connection)
    connection = await manager.acquire_master()
    await manager.release(connection)
    connection = await manager.acquire_replica()
    await manager.release(connection)
    async with manager.acquire_master() as connection:
        await manager.release(connection)  # early; the end of the block does not release it again
    await every_place_works(kit, manager)


@pytest.mark.parametrize(
    "policy", [GreedyBalancerPolicy, RandomWeightedBalancerPolicy, RoundRobinBalancerPolicy]
)
async def test_every_policy_uses_both_replicas(
    kit: Kit, pg_cluster: LocalCluster, policy: type[BaseBalancerPolicy]
) -> None:
    async with kit.manager(
        pg_cluster.dsn, balancer_policy=policy, pool_factory_kwargs=kit.sizes(0, 1)
    ) as manager:
        await manager.ready(1, 2)
        assert type(manager.balancer) is policy
        ports = set()
        for _ in range(40):
            async with manager.acquire_replica() as connection:
                ports.add(await kit.port(connection))
        assert len(ports) == 2


async def test_masters_stand_in_for_replicas_as_far_as_allowed(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    dsn, sizes = pg_cluster.master.dsn, kit.sizes(0, 1)
    query = "SELECT pg_is_in_recovery()"
    async with kit.manager(dsn, pool_factory_kwargs=sizes) as manager:
        with pytest.raises(NotAvailableError, match="no connection to a replica"):
            await manager.acquire_replica(timeout=0.05)
        for lease in (
            manager.acquire_replica(fallback_master=True),
            manager.acquire(True, True),
            manager.acquire(read_only=True, master_as_replica_weight=1.0),
        ):
            async with lease as connection:
                assert await kit.value(connection, query) is False
        assert await manager.get_pool(True, True) is await manager.get_pool(False)
        assert await manager.get_replica_pools(fallback_master=True) == manager.pools
    async with kit.manager(dsn, fallback_master=True, pool_factory_kwargs=sizes) as manager:
        async with manager.acquire(read_only=True) as connection:
            assert await kit.value(connection, query) is False
        with pytest.raises(NotAvailableError, match="no connection to a replica"):
            await manager.acquire(True, fallback_master=False, timeout=0.05)
        assert await manager.get_pool(read_only=True) is manager.pools[0]


async def test_hosts_in_never_master_are_none(kit: Kit, pg_cluster: LocalCluster) -> None:
    master = pg_cluster.master
    async with kit.manager(
        pg_cluster.dsn,
        never_master=[f"{master.host}:{master.port}"],
        pool_factory_kwargs=kit.sizes(0, 1),
    ) as manager:
        await manager.ready(0, 2)
        with pytest.raises(NotAvailableError, match="never_master forbids"):
            await manager.acquire_master(timeout=0.05)
        assert len(await manager.get_replica_pools()) == 2
        assert not any(map(manager.pool_is_master, manager.pools))


# The driver's pools


async def test_pools_are_the_drivers_own_and_known_by_role(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster
) -> None:
    hosts = {node.port: f"{node.host}:{node.port}" for node in pg_cluster.nodes}
    (master,) = await manager.get_master_pools()
    replicas = await manager.get_replica_pools()
    assert list(manager) == [master, *replicas]
    assert [manager.host(pool) for pool in manager.pools] == list(hosts.values())
    assert manager.host(master) == hosts[pg_cluster.master.port]
    assert await manager.get_pool(read_only=False) is master
    assert await manager.get_pool(True) in replicas
    counts = manager.master_pool_count, manager.replica_pool_count, manager.available_pool_count
    assert counts == (1, 2, 3)
    for pool in manager.pools:
        assert isinstance(pool, kit.pool_type)
        assert manager.pool_is_master(pool) is (pool is master)
        assert manager.pool_is_replica(pool) is (pool in replicas)
        assert 0 < (manager.get_last_response_time(pool) or 0) < 1
        assert manager.get_pool_freesize(pool) == 2
        async with manager.acquire_from_pool(pool) as connection:
            assert isinstance(connection, kit.connection_type)
            assert hosts[await kit.port(connection)] == manager.host(pool)
            assert manager.get_pool_freesize(pool) == 1
        connection = await manager.acquire_from_pool(pool, **kit.acquire_kwargs)
        await manager.release_to_pool(connection, pool, **kit.release_kwargs)
        connection = await manager.acquire_from_pool(pool)
        await manager.release(connection)
        assert manager.get_pool_freesize(pool) == 2


async def test_connections_taken_from_a_pool_directly_can_be_given_back(
    kit: Kit, manager: Manager
) -> None:
    pool, other = await manager.get_pool(False), await manager.get_pool(True)
    for _ in range(3):
        connection = await kit.take(pool)
        manager.register_connection(connection, pool)
        manager.register_connection(connection, pool)  # registering it again changes nothing
        assert manager.get_pool_freesize(pool) == 1
        assert not manager.is_connection_closed(connection)
        with pytest.raises(UnknownConnectionError):
            manager.register_connection(connection, other)
        assert await kit.value(connection, "SELECT 1") == 1
        await manager.release(connection)
        connection = await kit.take(pool)
        manager.register_connection(connection, pool)
        await manager.release_to_pool(connection, pool)
    await every_place_works(kit, manager)


async def test_arguments_go_on_to_the_driver_and_wrong_ones_leak_nothing(
    kit: Kit, manager: Manager
) -> None:
    pool = await manager.get_pool(False)
    for lease in (
        manager.acquire(True, **kit.acquire_kwargs),
        manager.acquire_master(**kit.acquire_kwargs),
        manager.acquire_replica(**kit.acquire_kwargs),
        manager.acquire_from_pool(pool, **kit.acquire_kwargs),
    ):
        connection = await lease
        assert await kit.value(connection, "SELECT 1") == 1
        await manager.release(connection, **kit.release_kwargs)
    for _ in range(5):
        with pytest.raises(TypeError):
            await manager.acquire_master(nonsense=1)
        with pytest.raises(TypeError):
            async with manager.acquire_replica(nonsense=1):
                pass
        with pytest.raises(TypeError):
            await manager.acquire_from_pool(pool, nonsense=1)
        connection = await manager.acquire_master()
        with pytest.raises(TypeError):
            await manager.release(connection, nonsense=1)
        connection = await manager.acquire_master()
        with pytest.raises(TypeError):
            await manager.release_to_pool(connection, pool, nonsense=1)
    await every_place_works(kit, manager)


# What it refuses


async def test_a_connection_is_given_back_once_and_to_its_own_manager(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster
) -> None:
    master, replica = await manager.get_pool(False), await manager.get_pool(True)
    async with kit.manager(pg_cluster.dsn, pool_factory_kwargs=kit.sizes(0, 1)) as other:
        await other.ready()
        connection = await manager.acquire_master()
        with pytest.raises(UnknownConnectionError):
            await other.release(connection)
        with pytest.raises(UnknownConnectionError):
            await manager.release_to_pool(connection, replica)
        for stranger in (other.pools[0], object(), None):
            for ask in (
                manager.host,
                manager.pool_is_master,
                manager.pool_is_replica,
                manager.get_pool_freesize,
                manager.get_last_response_time,
                manager.acquire_from_pool,
            ):
                with pytest.raises(UnknownConnectionError):
                    ask(stranger)
            with pytest.raises(UnknownConnectionError):
                await manager.release_to_pool(connection, stranger)
            with pytest.raises(UnknownConnectionError):
                manager.register_connection(connection, stranger)
        assert await kit.value(connection, "SELECT 1") == 1
        await manager.release(connection)
        with pytest.raises(ValueError, match=r"not a connection.*released") as caught:
            await manager.release(connection)
        assert isinstance(caught.value, HasqlError)
        with pytest.raises(UnknownConnectionError):
            manager.is_connection_closed(connection)
        await every_place_works(kit, other)
    connection = await manager.acquire_master()
    await manager.release_to_pool(connection, master)
    with pytest.raises(UnknownConnectionError):
        await manager.release_to_pool(connection, master)
    with pytest.raises(UnknownConnectionError):
        await manager.release(connection)
    for nothing in (object(), None, "connection", manager.acquire_master()):
        with pytest.raises(UnknownConnectionError):
            await manager.release(nothing)
    await every_place_works(kit, manager)


async def test_values_of_wrong_kinds_are_refused_and_leak_nothing(
    kit: Kit, manager: Manager
) -> None:
    with pytest.raises(TypeError):
        await manager.acquire(timeout="1")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        await manager.acquire_master(timeout=-1)
    with pytest.raises(ConfigurationError):
        await manager.acquire_replica(master_as_replica_weight=2)
    with pytest.raises(TypeError):
        await manager.ready("1", 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await manager.wait_masters_ready(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await manager.wait_next_pool_check(timeout="soon")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await manager.close(timeout=None)  # type: ignore[arg-type]
    lease = manager.acquire_master()
    async with lease:
        pass
    with pytest.raises(HasqlError, match="used already"):
        await lease
    assert not manager.closing
    await every_place_works(kit, manager)


async def test_a_connection_that_was_lost_says_so_and_can_be_given_back(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster
) -> None:
    for read_only in (False, True):
        connection = await manager.acquire(read_only)
        assert not manager.is_connection_closed(connection)
        (node,) = [x for x in pg_cluster.nodes if x.port == await kit.port(connection)]
        assert await node.sql(f"SELECT pg_terminate_backend({await kit.pid(connection)}, 5000)")
        with pytest.raises(kit.lost):
            await kit.value(connection, "SELECT 1")
        assert manager.is_connection_closed(connection)
        await manager.release(connection)
    with pytest.raises(kit.lost):
        async with manager.acquire_master() as connection:
            await kit.value(connection, "SELECT pg_terminate_backend(pg_backend_pid())")
    await every_place_works(kit, manager)


async def test_an_error_of_the_applications_own_costs_nobody_anything(
    kit: Kit, manager: Manager, table: Table
) -> None:
    for statement in ("SELECT 1/0", "SELEKT", f"{table.rows} WHERE no_such_column"):
        with pytest.raises(kit.refused_statement):
            async with manager.acquire_master() as connection:
                await kit.value(connection, statement)
        with pytest.raises(LookupError, match="mine"):
            async with manager.acquire_replica() as connection:
                raise LookupError("mine")
        connection = await manager.acquire_master()
        with pytest.raises(kit.refused_statement):
            await kit.value(connection, statement)
        await manager.release(connection)
    await every_place_works(kit, manager)
