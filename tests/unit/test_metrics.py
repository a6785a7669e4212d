"""Metrics: the meaning of each field, what is counted where, and that no storm makes them wrong."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
from collections import Counter
from pathlib import Path
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

import hasql
from hasql.base import BasePoolManager
from hasql.cluster.dsn import Dsn
from hasql.cluster.host import HostSpec, parse_host
from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion, Health
from hasql.errors import NotAvailableError
from hasql.metrics import DiscoveryMetrics, Metrics, NodeMetrics
from testbed.fake_driver import (
    FakeConnection,
    FakeDriver,
    FakeManager,
    FakePool,
    FakeServer,
    ServerError,
    fake_cluster,
    manager_of,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.loops_in_turn

COUNTERS = ("acquires", "acquire_seconds", "waits", "retries", "role_changes", "fencings")


def numbers(snapshot: Metrics) -> Iterator[tuple[str, float]]:
    """Yield every number in a snapshot, with its name."""
    parts: list[Metrics | NodeMetrics] = [snapshot, *snapshot.nodes]
    for part in parts:
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if isinstance(value, int | float):
                yield field.name, value


def sized(minimum: int, maximum: int) -> dict[str, Any]:
    return {"pool_factory_kwargs": {"min_size": minimum, "max_size": maximum}}


# The snapshot


async def test_a_snapshot_is_frozen() -> None:
    async with manager_of(fake_cluster("a master", "b replica"), refresh_delay=60) as manager:
        await manager.ready()
        before = manager.metrics()
        async with manager.acquire_master():
            assert before.nodes[0].in_flight == 0
        assert before != manager.metrics()
        assert hash(before) == hash(dataclasses.replace(before))
        for part in (before, before.nodes[0]):
            for field in dataclasses.fields(part):
                with pytest.raises(dataclasses.FrozenInstanceError):
                    setattr(part, field.name, None)


def test_before_the_start_there_is_nothing_to_tell() -> None:
    metrics = manager_of(fake_cluster("a master")).metrics()
    source = DiscoveryMetrics("StaticDiscovery", (), None, None)
    assert metrics == Metrics((), 0, 0.0, 0, 0, 0, 0, 0, source)


async def test_before_the_first_answer_all_is_unknown() -> None:
    servers = fake_cluster("a master", "b replica")
    for server in servers.values():
        server.freeze()
    manager = manager_of(servers, **sized(1, 3))
    waiting = asyncio.ensure_future(manager.acquire_master(timeout=20))
    await until(lambda: manager.metrics().waiting == 1)
    for node, host in zip(manager.metrics().nodes, ("a:5432", "b:5432"), strict=True):
        assert 0 <= node.unchanged_for < 20
        assert dataclasses.replace(node, unchanged_for=0.0) == NodeMetrics(
            host=parse_host(host),
            role=Role.UNKNOWN,
            health=Health.STARTING,
            exclusion=None,
            unchanged_for=0.0,
            pool_min=1,
            pool_max=3,
            pool_idle=0,
            pool_used=0,
            in_flight=0,
            response_time=None,
            lag_bytes=None,
            lag_seconds=None,
            timeline=None,
            fencing=False,
            last_error=None,
        )
    for server in servers.values():
        server.thaw()
    await manager.release(await waiting)
    await manager.close()


@pytest.mark.parametrize("politely", [True, False])
async def test_after_the_end_the_last_is_told(politely: bool) -> None:
    manager = manager_of(fake_cluster("a master", "b replica"), **sized(0, 2))
    async with manager.acquire_master():
        pass
    await (manager.close() if politely else manager.terminate())
    metrics = manager.metrics()
    assert [str(node.host) for node in metrics.nodes] == ["a:5432", "b:5432"]
    assert [(node.pool_idle, node.pool_used, node.in_flight) for node in metrics.nodes] == [
        (0, 0, 0)
    ] * 2
    assert (metrics.acquires, metrics.waiting) == (1, 0)


async def test_a_manager_that_was_never_started_can_be_closed_and_measured() -> None:
    manager = manager_of(fake_cluster("a master"))
    await manager.close()
    assert manager.metrics().nodes == ()


# What is reported of a node


async def test_roles_health_and_timeline_of_each_node() -> None:
    servers = fake_cluster("a master", "b replica", "c replica")
    servers["a"].timeline = 5
    servers["c"].alive = False
    async with manager_of(servers) as manager:
        await until(lambda: manager.metrics().nodes[2].health is Health.DOWN)
        a, b, c = manager.metrics().nodes
        assert (a.role, b.role, c.role) == (Role.MASTER, Role.REPLICA, Role.UNKNOWN)
        assert (a.health, b.health, c.health) == (Health.UP, Health.UP, Health.DOWN)
        assert (a.timeline, b.timeline, c.timeline) == (5, None, None)
        assert (a.fencing, b.fencing, c.fencing) == (True, True, False)
        assert [node.exclusion for node in (a, b, c)] == [None] * 3
        assert c.last_error == "ConnectionRefusedError: connection refused by c:5432"
        for node in (a, b):
            assert node.response_time is not None
            assert 0 < node.response_time < 20


async def test_how_long_it_has_been_so() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=0.02) as manager:
        await manager.ready()
        await until(lambda: manager.metrics().nodes[1].unchanged_for > 0.05)
        # Probes that confirm what is known do not count as changes.
        probes = len(servers["b"].probes)
        await until(lambda: len(servers["b"].probes) > probes + 2)
        assert manager.metrics().nodes[1].unchanged_for > 0.05
        began = monotonic()
        servers["b"].kill()
        await until(lambda: manager.metrics().nodes[1].health is Health.DOWN)
        assert manager.metrics().nodes[1].unchanged_for <= monotonic() - began
        began = monotonic()
        servers["b"].restart()
        await until(lambda: manager.metrics().nodes[1].health is Health.UP)
        a, b = manager.metrics().nodes
        assert b.unchanged_for <= monotonic() - began < a.unchanged_for


async def test_connections_are_idle_or_used() -> None:
    async with manager_of(fake_cluster("a master", "b replica"), **sized(2, 5)) as manager:
        await manager.ready()

        def counts() -> list[tuple[int, int, int]]:
            nodes = manager.metrics().nodes
            assert {(node.pool_min, node.pool_max) for node in nodes} == {(2, 5)}
            return [(node.pool_idle, node.pool_used, node.in_flight) for node in nodes]

        assert counts() == [(2, 0, 0), (2, 0, 0)]
        taken = [await manager.acquire_master() for _ in range(3)]
        assert counts() == [(0, 3, 3), (2, 0, 0)]
        async with manager.acquire_replica():
            assert counts() == [(0, 3, 3), (1, 1, 1)]
        [master, _] = manager.pools
        async with manager.acquire_from_pool(master):
            assert counts() == [(0, 4, 4), (2, 0, 0)]
        # A connection that was taken directly from the driver's pool is not counted.
        direct = await master.acquire()
        assert counts()[0] == (0, 4, 3)
        manager.register_connection(direct, master)
        assert counts()[0] == (0, 4, 4)
        for connection in (*taken, direct):
            await manager.release(connection)
        assert counts() == [(4, 0, 0), (2, 0, 0)]


async def test_what_is_being_taken_or_given_back_is_in_flight() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers, refresh_timeout=20, **sized(0, 5)) as manager:
        held = await manager.acquire_master()
        servers["a"].freeze()
        back = asyncio.ensure_future(manager.release(held))
        taking = asyncio.ensure_future(manager.acquire_master(timeout=20))
        await until(lambda: servers["a"].logins == 3)
        [node] = manager.metrics().nodes
        assert (node.in_flight, node.pool_used, node.pool_idle) == (2, 1, 0)
        servers["a"].thaw()
        await back
        await manager.release(await taking)
        assert manager.metrics().nodes[0].in_flight == 0


@pytest.mark.parametrize(
    ("written", "replayed", "age", "expected"),
    [
        pytest.param(5000, 1000, 2.5, (4000, 2.5), id="behind"),
        pytest.param(5000, 1000, None, (4000, None), id="no commit replayed yet"),
        pytest.param(1000, 1000, 3600.0, (0, 0.0), id="all replayed, however long ago"),
        pytest.param(1000, 1500, 2.5, (0, 0.0), id="asked after the master was"),
        pytest.param(5000, 1000, -0.5, (4000, 0.0), id="the master's clock is ahead"),
        pytest.param(None, 1000, 2.5, (None, 2.5), id="the master does not tell"),
        pytest.param(None, 1000, -0.5, (None, 0.0), id="nor does it, and its clock is ahead"),
        pytest.param(5000, None, 2.5, (None, 2.5), id="the replica does not tell"),
    ],
)
async def test_lag(
    written: int | None,
    replayed: int | None,
    age: float | None,
    expected: tuple[int | None, float | None],
) -> None:
    a, b = (FakeServer(parse_host(name), master=name == "a") for name in "ab")
    a.position, b.position, b.replay_age = written, replayed, age  # type: ignore[assignment]
    async with FakeManager({a.host: a, b.host: b}) as manager:
        await manager.ready()
        master, replica = manager.metrics().nodes
        assert (replica.lag_bytes, replica.lag_seconds) == expected
        assert (master.lag_bytes, master.lag_seconds) == (None, None)
        a.kill()
        await until(lambda: manager.master_pool_count == 0)
        _, replica = manager.metrics().nodes
        assert (replica.lag_bytes, replica.lag_seconds) == (
            None,
            None if age is None else max(0, age),
        )
        b.kill()
        await until(lambda: manager.replica_pool_count == 0)
        _, replica = manager.metrics().nodes
        assert (replica.lag_bytes, replica.lag_seconds) == (None, None)


async def test_each_cluster_has_its_own_lag() -> None:
    servers = fake_cluster("a master", "b replica", "c master", "d replica")
    for name, cluster, position in (("a", 7, 5000), ("b", 7, 4000), ("c", 8, 900), ("d", 8, 870)):
        servers[name].system_id, servers[name].position = cluster, position
    async with manager_of(servers, allow_several_clusters=True) as manager:
        await manager.ready()
        assert [node.lag_bytes for node in manager.metrics().nodes] == [None, 1000, None, 30]


# How nodes are told apart


async def test_hosts_that_differ_in_their_port_alone_are_two() -> None:
    servers = fake_cluster("db:5432 master", "db:5433 replica", "db:5434 replica")
    async with manager_of(servers) as manager:
        await manager.ready()
        servers["db:5434"].kill()
        await until(lambda: manager.replica_pool_count == 1)
        async with manager.acquire_replica():
            nodes = manager.metrics().nodes
            assert [str(node.host) for node in nodes] == ["db:5432", "db:5433", "db:5434"]
            assert [node.role.value for node in nodes] == ["master", "replica", "unknown"]
            assert [node.in_flight for node in nodes] == [0, 1, 0]


async def test_two_names_of_one_server_are_two_nodes_of_which_one_serves() -> None:
    servers = fake_cluster("a master", "b replica", "alias replica")
    servers["alias"].started_at = servers["b"].started_at
    async with manager_of(servers) as manager:
        await manager.ready()
        async with manager.acquire_replica(), manager.acquire_replica():
            nodes = manager.metrics().nodes
            assert [node.host.host for node in nodes] == ["a", "b", "alias"]
            assert [node.exclusion for node in nodes] == [None, None, Exclusion.ALIAS]
            assert [node.in_flight for node in nodes] == [0, 2, 0]


# What is counted where


async def test_a_connection_handed_out_is_an_acquire() -> None:
    async with manager_of(fake_cluster("a master", "b replica"), **sized(1, 2)) as manager:
        await manager.ready()
        async with manager.acquire_master(), manager.acquire_replica():
            pass
        await manager.release(await manager.acquire_master())
        async with manager.acquire_from_pool(manager.pools[0]):
            pass
        await manager.get_pool(read_only=True)
        assert "idle" in repr(manager.acquire_master())  # neither awaited nor entered
        metrics = manager.metrics()
        assert [getattr(metrics, name) for name in COUNTERS if name != "acquire_seconds"] == [
            4, 0, 0, 0, 0,
        ]  # fmt: skip
        assert 0 < metrics.acquire_seconds < 20


async def test_the_time_of_an_acquire_is_that_of_waiting_too() -> None:
    async with manager_of(fake_cluster("a master"), **sized(1, 1)) as manager:
        held = await manager.acquire_master()
        before = manager.metrics().acquire_seconds
        began = monotonic()
        waiting = asyncio.ensure_future(manager.acquire_master(timeout=20))
        await until(lambda: manager.metrics().waiting == 1)
        asked = monotonic()
        with pytest.raises(NotAvailableError):
            await manager.acquire_master(timeout=0.05)
        assert manager.metrics().acquire_seconds == before, "no connection, no time"
        least = monotonic() - asked
        await manager.release(held)
        await manager.release(await waiting)
        assert least <= manager.metrics().acquire_seconds - before <= monotonic() - began


async def test_waits_are_counted_by_acquires_and_waiting_as_it_is() -> None:
    async with manager_of(fake_cluster("a master"), **sized(0, 2)) as manager:
        held = [await manager.acquire_master() for _ in range(2)]

        def told() -> tuple[int, int, int]:
            metrics = manager.metrics()
            return metrics.acquires, metrics.waits, metrics.waiting

        assert told() == (2, 0, 0)
        first, second, third = (
            asyncio.ensure_future(manager.acquire_master(timeout=20)) for _ in range(3)
        )
        await until(lambda: told() == (2, 3, 3))
        second.cancel()
        await asyncio.wait([second])
        assert told() == (2, 3, 2)
        await manager.release(held.pop())
        held.append(await first)
        assert told() == (3, 3, 1)
        with pytest.raises(NotAvailableError):
            await manager.acquire_master(timeout=0.01)
        assert told() == (3, 4, 1)
        with pytest.raises(NotAvailableError):
            await manager.acquire_replica(timeout=0.01)
        assert told() == (3, 5, 1)
        pool = asyncio.ensure_future(manager.get_pool(read_only=False))
        await until(lambda: told() == (3, 5, 2))
        pool.cancel()
        await asyncio.wait([pool])
        third.cancel()
        await asyncio.wait([third])
        assert told() == (3, 5, 0)
        for connection in held:
            await manager.release(connection)
        assert manager.metrics().nodes[0].in_flight == 0


async def test_an_acquire_that_waits_twice_is_one_that_had_to_wait() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers, refresh_delay=0.02, **sized(0, 1)) as manager:
        held = await manager.acquire_master()
        waiting = asyncio.ensure_future(manager.acquire_master(timeout=20))
        await until(lambda: manager.metrics().waiting == 1)
        # The waiter gets the place, meets a full server, and has to wait again.
        servers["a"].login_error = ServerError("53300")
        held.lose()
        await manager.release(held)
        await until(lambda: manager.metrics().retries > 0 and manager.metrics().waiting == 1)
        servers["a"].login_error = None
        await manager.release(await waiting)
        assert (manager.metrics().waits, manager.metrics().acquires) == (1, 2)


async def test_a_candidate_that_is_given_up_is_a_retry() -> None:
    servers = fake_cluster("a replica")
    async with manager_of(servers, **sized(0, 5)) as manager:
        await manager.ready()
        servers["a"].login_error = ServerError("53300")
        with pytest.raises(NotAvailableError):
            await manager.acquire_replica(timeout=0.015)
        metrics = manager.metrics()
        assert (metrics.retries, metrics.acquires, metrics.nodes[0].in_flight) == (1, 0, 0)
        # A mistake of the application is not retried.
        with pytest.raises(AssertionError):
            servers["a"].login_error = AssertionError("mine")
            await manager.acquire_from_pool(manager.pools[0])
        assert manager.metrics().retries == 1


async def test_a_connection_in_the_wrong_role_is_a_retry() -> None:
    servers = fake_cluster("a replica")
    async with manager_of(servers, refresh_delay=60, **sized(1, 2)) as manager:
        await manager.ready()
        servers["a"].lie_to_pool = False  # as after a promotion that no probe has seen
        with pytest.raises(NotAvailableError):
            await manager.acquire_replica(timeout=0.05)
        metrics = manager.metrics()
        assert metrics.retries > 0
        assert (metrics.acquires, metrics.nodes[0].in_flight) == (0, 0)


@pytest.mark.parametrize("steps", range(12))
async def test_a_cancelled_acquire_is_none_and_gives_its_place_back(steps: int) -> None:
    """Depending on `steps`, it is cancelled while waiting, while connecting, or with its lease."""
    async with manager_of(fake_cluster("a master"), **sized(0, 1)) as manager:
        await manager.ready(1, 0)
        got = 0

        async def use() -> None:
            nonlocal got
            async with manager.acquire_master(timeout=20):
                got += 1

        users = [asyncio.ensure_future(use()) for _ in range(3)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for user in users:
            user.cancel()
        await asyncio.wait(users)
        metrics = manager.metrics()
        assert (metrics.acquires, metrics.waiting) == (got, 0)
        # A cancelled release goes on, and keeps its place until it has ended.
        async with asyncio.timeout(5):
            while manager.metrics().nodes[0].in_flight:
                await asyncio.sleep(0)


async def test_a_role_change_is_counted_once_and_a_return_is_none() -> None:
    servers = fake_cluster("a master", "b replica", "c replica")
    async with manager_of(servers, refresh_delay=0.02) as manager:
        await manager.ready()

        def told() -> tuple[int, int]:
            return manager.metrics().role_changes, manager.metrics().fencings

        for name in "ca":
            servers[name].kill()
            await until(lambda: manager.available_pool_count == 2)
            servers[name].restart()
            await manager.ready()
        assert told() == (0, 0)
        servers["b"].promote()
        await until(lambda: told() == (1, 1))
        # The old master stays fenced, whatever it does, until it follows the new one.
        servers["a"].kill()
        await until(lambda: manager.metrics().nodes[0].health is Health.DOWN)
        servers["a"].restart()
        await until(lambda: manager.metrics().nodes[0].health is Health.UP)
        assert manager.metrics().nodes[0].exclusion is Exclusion.FENCED
        assert told() == (1, 1)
        servers["a"].restart(master=False)
        await until(lambda: manager.replica_pool_count == 2)
        assert told() == (2, 1)


async def test_the_role_of_a_host_that_may_not_serve_in_it_changes_too() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=0.02, never_master=["b"]) as manager:
        await manager.ready()
        servers["b"].promote()
        await until(lambda: manager.metrics().nodes[1].exclusion is Exclusion.NEVER_MASTER)
        assert (manager.metrics().role_changes, manager.metrics().fencings) == (1, 0)


# Errors, and what must not be in them


async def test_the_last_error_is_the_newest_of_probes_and_connects_and_is_kept() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers, refresh_delay=0.02, **sized(0, 2)) as manager:
        await manager.ready(1, 0)

        def last() -> str | None:
            return manager.metrics().nodes[0].last_error

        assert last() is None
        servers["a"].login_error = ServerError("53300")
        with pytest.raises(NotAvailableError):
            await manager.acquire_master(timeout=0.01)
        assert last() == "ServerError: SQLSTATE 53300"
        assert manager.metrics().nodes[0].health is Health.UP
        servers["a"].login_error = None
        async with manager.acquire_master(timeout=20):
            assert last() == "ServerError: SQLSTATE 53300"
        servers["a"].kill()
        await until(lambda: last() == "ConnectionRefusedError: connection refused by a:5432")
        servers["a"].restart()
        async with manager.acquire_master(timeout=20):
            assert last() == "ConnectionRefusedError: connection refused by a:5432"


class WithDsn(BasePoolManager[FakePool, FakeConnection]):
    """A manager with a DSN that the test gives."""

    def __init__(self, dsn: str, **kwargs: Any) -> None:
        hosts = Dsn.parse(dsn).hosts
        self.servers = {host: FakeServer(host, master=False) for host in hosts}
        self._driver = FakeDriver(self.servers)  # type: ignore[misc]  # one cluster for each test
        super().__init__(dsn, **kwargs)


async def test_14_no_password_is_in_a_metric_an_error_or_a_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = WithDsn("postgresql://user:s3%27cr%2Fet@a,b/app?sslpassword=k3y", **sized(0, 2))
    a, b = manager.servers.values()
    url = manager.dsn.for_host(b.host)
    assert "s3%27cr%2Fet" in url
    b.login_error = ConnectionError(f'cannot connect to {url} with password "s3\'cr/et"')
    async with manager:
        await until(lambda: manager.metrics().nodes[1].last_error is not None)
        a.login_error = OSError(f"cannot connect to {manager.dsn.for_host(a.host)}")
        with pytest.raises(NotAvailableError) as caught:
            await manager.acquire_replica(timeout=0.05)
        metrics = manager.metrics()
    assert metrics.nodes[0].last_error == (
        "OSError: cannot connect to postgresql://user:***@a:5432/app?sslpassword=***"
    )
    assert metrics.nodes[1].last_error == (
        "ConnectionError: cannot connect to postgresql://user:***@b:5432/app?sslpassword=*** "
        'with password "***"'
    )
    for text in (str(metrics), repr(metrics), str(caught.value), caplog.text, repr(manager)):
        assert "b:5432" in text or "@a:5432,b:5432" in text
        for secret in ("s3", "cr/et", "cr%2Fet", "k3y"):
            assert secret not in text


def test_14_no_line_of_the_log_shows_an_error_as_it_is() -> None:
    shown = []
    for path in Path(hasql.__file__).parent.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("log."):
                names = {arg.id for arg in call.args if isinstance(arg, ast.Name)}
                shown += [(path.name, call.lineno)] * bool(names & {"error", "failure", "failed"})
    assert shown == []


# Storms


class Storm:
    """Random users and random faults on one cluster; the metrics are checked at each step."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311  # no secret
        self.servers = fake_cluster("db:5432 master", "db:5433 replica", "other:5432 replica")
        self.manager = manager_of(
            self.servers,
            refresh_delay=0.02,
            refresh_timeout=0.05,
            release_timeout=0.05,
            lease_abort_after=0.05,
            master_as_replica_weight=0.2,
            **sized(0, 3),
        )
        self.users: set[asyncio.Task[None]] = set()
        self.held: Counter[HostSpec] = Counter()
        self.handed_out = 0
        self.last = self.manager.metrics()

    async def use(self) -> None:
        """Take a connection, run something on it, and give it back."""
        timeout = self.random.choice([0.0, 0.01, 0.2])
        with contextlib.suppress(NotAvailableError, ConnectionError):
            async with self.manager.acquire(self.random.random() < 0.5, timeout=timeout) as taken:
                self.handed_out += 1
                self.held[taken.server.host] += 1
                try:
                    for _ in range(self.random.randrange(4)):
                        await taken.run()
                finally:
                    self.held[taken.server.host] -= 1

    def disturb(self) -> None:
        """Do something random to the users, or to a server."""
        server = self.random.choice(list(self.servers.values()))
        deeds = [
            server.kill,
            *[lambda: server.restart(master=self.random.choice([None, False]))] * 2,
            server.freeze,
            *[server.thaw] * 3,
            server.promote,
            *[lambda: self.turn_away(server)] * 2,
            lambda: self.lose_half(server),
            *[self.cancel_half] * 2,
            *[self.come] * 12,
        ]
        self.random.choice(deeds)()

    def turn_away(self, server: FakeServer) -> None:
        server.login_error = self.random.choice([None, None, ServerError("53300")])

    def lose_half(self, server: FakeServer) -> None:
        for connection in server.connections[::2]:
            connection.lose()

    def cancel_half(self) -> None:
        for user in self.random.sample(sorted(self.users, key=id), len(self.users) // 2):
            user.cancel()

    def come(self) -> None:
        for _ in range(self.random.randrange(20)):
            user = asyncio.ensure_future(self.use())
            self.users.add(user)
            user.add_done_callback(self.users.discard)

    def look(self) -> None:
        """Check what must hold at every moment."""
        now, last = self.manager.metrics(), self.last
        for name, value in numbers(now):
            assert value >= 0, name
        for name in COUNTERS:
            assert getattr(now, name) >= getattr(last, name), name
        assert now.acquires == self.handed_out
        assert now.waiting <= now.waits
        assert [node.host for node in now.nodes] == [s.host for s in self.servers.values()]
        for node in now.nodes:
            assert self.held[node.host] <= node.in_flight <= node.pool_max
            assert node.pool_used <= node.in_flight
        self.last = now

    async def calm(self) -> None:
        """Repair all servers, and wait until all users have ended."""
        newest = max(self.servers.values(), key=lambda server: server.timeline)
        for server in self.servers.values():
            server.thaw()
            server.login_error = None
            server.restart(master=server is newest)
        while self.users:
            self.look()
            await asyncio.wait(self.users, timeout=0.01)


@pytest.mark.parametrize("seed", range(6))
async def test_no_storm_makes_a_number_wrong(seed: int) -> None:
    storm = Storm(seed)
    async with storm.manager as manager:
        await manager.ready()
        for _ in range(300):
            storm.disturb()
            await asyncio.sleep(storm.random.choice([0, 0, 0, 0.001, 0.005]))
            storm.look()
        await storm.calm()
        await manager.ready(1, 2)
        metrics = manager.metrics()
        assert metrics.waiting == 0
        assert [(node.in_flight, node.pool_used) for node in metrics.nodes] == [(0, 0)] * 3
        # It really was a storm.
        assert metrics.acquires > 0
        assert metrics.waits > 0
        # No place is lost: every one can still be taken.
        async with asyncio.timeout(20):
            taken = [await manager.acquire_master(timeout=20) for _ in range(3)]
        for connection in taken:
            await manager.release(connection)
