"""Names that move: what a manager does when a host's name begins to lead to other addresses."""

from __future__ import annotations

import asyncio
import socket
import threading
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from hasql import NotAvailableError
from hasql._probing.followed_names import FollowedNames, is_name
from hasql._probing.name_sources import SystemNames
from hasql._probing.options import ProbingOptions
from hasql.cluster.host import parse_host
from hasql.cluster.state import Health
from hasql.dns import Answer
from hasql.driver import Endpoint
from simulation.virtual_time import VirtualClock, run
from testbed.fake_driver import (
    FakeConnection,
    FakeServer,
    ScriptedNames,
    ServerError,
    fake_cluster,
    manager_of,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from testbed.fake_driver import FakeManager


def moving(
    ttl: float = 0.0, **kwargs: Any
) -> tuple[FakeManager, FakeServer, FakeServer, ScriptedNames]:
    """Make a manager of one name, which leads to the first of two servers of one cluster.

    By default the name is looked up again after a second, the shortest time there is.
    """
    names = ScriptedNames(ttl)
    names.addresses["db"] = ("10.0.0.1",)
    servers = fake_cluster("db master")
    old, new = servers["db"], FakeServer(parse_host("db"), master=True, timeline=2)
    manager = manager_of(servers, names=names, **{"refresh_delay": 0.05, **kwargs})
    manager.driver.at = {"10.0.0.1": old, "10.0.0.2": new}
    return manager, old, new, names


def move_once(names: ScriptedNames, *addresses: str) -> None:
    """Let the name lead elsewhere; its new TTL is long, so only one look-up tells of it."""
    names.addresses["db"], names.ttl = addresses, 60.0


async def until_heard(names: ScriptedNames) -> None:
    """Wait until an answer with the name's present addresses has come and has had its effect."""
    lookups = len(names.lookups)
    await until(lambda: len(names.lookups) >= lookups + 2)


def pooled(server: FakeServer) -> list[FakeConnection]:
    """Return the connections of a server except those of monitors."""
    return [each for each in server.connections if each.on_lost is None]


async def test_what_is_idle_is_drained_and_the_next_lease_leads_to_the_new_address() -> None:
    manager, old, new, names = moving()
    async with manager:
        async with manager.acquire_master() as connection:
            assert connection.address == "10.0.0.1"
        names.addresses["db"] = ("10.0.0.2",)
        await until(lambda: not old.connections)
        async with manager.acquire_master() as connection:
            assert connection.server is new


async def test_a_lease_goes_on_and_is_closed_when_it_is_released() -> None:
    manager, server, _, names = moving()
    manager.driver.at["10.0.0.2"] = server  # the same server is reached at another address as well
    async with manager:
        async with manager.acquire_master() as lent:
            move_once(names, "10.0.0.2")
            await until(lambda: any(each.address == "10.0.0.2" for each in server.connections))
            async with manager.acquire_master(timeout=5) as connection:
                assert connection.address == "10.0.0.2"
            assert not lent.closed
        await until(lambda: lent.closed)
        assert {each.address for each in server.connections} == {"10.0.0.2"}


def test_9_a_pool_that_was_being_opened_when_its_name_moved_leads_to_the_new_address() -> None:
    clock = VirtualClock()
    sizes = {"min_size": 6, "max_size": 6}
    manager, old, new, names = moving(clock=clock, refresh_delay=1.0, pool_factory_kwargs=sizes)
    old.latency = 0.4  # for each login of the pool: the name moves before the last one

    async def play() -> None:
        ready = asyncio.ensure_future(manager.ready(1, 0))
        try:
            await until(lambda: len(pooled(old)) > 0)
            assert manager.driver.pools == []
            move_once(names, "10.0.0.2")
            await ready
            lent = [await manager.acquire_master(timeout=5) for _ in range(6)]
            assert {each.server for each in lent} == {new}
            for each in lent:
                await manager.release(each)
        finally:
            await manager.close()

    run(play(), clock)


def test_9_what_a_driver_has_resolved_before_the_first_answer_is_no_probe_of_the_host() -> None:
    clock, names = VirtualClock(), SlowNames(60.0)
    names.addresses["db"] = ("10.0.0.2",)
    servers = fake_cluster("db master")
    servers["db"].latency = 0.1
    elsewhere = FakeServer(parse_host("db"), master=True, system_id=8)
    kwargs = {"min_size": 0}
    manager = manager_of(
        servers, names=names, clock=clock, refresh_delay=1.0, pool_factory_kwargs=kwargs
    )
    manager.driver.at = {"10.0.0.2": elsewhere}
    manager.driver.peer = "10.0.0.1"  # where the system's resolver still leads

    async def play() -> None:
        try:
            connection = await manager.acquire_master(timeout=5)
            assert connection.server is not elsewhere or elsewhere.probes
            await manager.release(connection)
        finally:
            await manager.close()

    run(play(), clock)


class SlowNames(ScriptedNames):
    """Answers so late that hasql has begun to connect without an answer."""

    async def lookup_async(self, host: str) -> Answer:
        await asyncio.sleep(0.15)
        return await super().lookup_async(host)


def test_9_an_answer_of_the_old_address_ends_no_hold_of_the_new_one() -> None:
    """A new reserved connection gets its answer in the same turn in which the name moves."""
    clock, names = VirtualClock(), NamesOnDemand(0.0)
    names.addresses["db"] = ("10.0.0.1",)
    old = AnsweringServer(parse_host("db"), master=True)
    copy = FakeServer(parse_host("db"), master=True, system_id=8)
    sizes = {"min_size": 0}
    servers = {"db": old}
    manager = manager_of(
        servers, names=names, clock=clock, refresh_delay=60.0, pool_factory_kwargs=sizes
    )
    manager.driver.at = {"10.0.0.1": old, "10.0.0.2": copy}

    async def play() -> None:
        async with manager:
            await manager.ready(1, 0)
            await until(lambda: names.asked is not None)
            asked = names.asked
            assert asked is not None
            names.addresses["db"], names.ttl = ("10.0.0.2",), 60.0
            copy.latency = 0.2
            old.on_answer = names.answer
            next(each for each in old.connections if each.on_lost is not None).lose()
            await until(asked.done)
            with pytest.raises(NotAvailableError):
                await manager.acquire_master(timeout=2)
            assert copy.probes
            assert not pooled(copy)

    run(play(), clock)


class NamesOnDemand(ScriptedNames):
    """Answers each look-up except the first when a test says so."""

    asked: asyncio.Future[None] | None = None

    async def lookup_async(self, host: str) -> Answer:
        if self.lookups:
            self.asked = asyncio.get_running_loop().create_future()
            await self.asked
        return await super().lookup_async(host)

    def answer(self) -> None:
        if self.asked is not None and not self.asked.done():
            self.asked.set_result(None)


class AnsweringSession(FakeConnection):
    """Has its answer although it is killed before the task that has asked gets its turn."""

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        row = await super().fetch_row(sql)
        assert isinstance(self.server, AnsweringServer)
        self.server.on_answer()
        for _ in range(3):
            await asyncio.sleep(0)
        return row


class AnsweringServer(FakeServer):
    """A server that calls `on_answer` when it has answered."""

    on_answer: Callable[[], object] = staticmethod(lambda: None)

    async def log_in(self) -> FakeConnection:
        (await super().log_in()).lose()
        return AnsweringSession(self)


def test_a_host_that_goes_and_is_back_in_one_turn_has_its_name_followed() -> None:
    names = AtOnce(1.0)
    names.addresses["db"] = ("10.0.0.1",)
    clock = VirtualClock()
    options = ProbingOptions(1.0, 1.0, 1, {}, str, clock, Random(0))  # noqa: S311  # not used here

    async def play() -> None:
        followed = FollowedNames(lambda: names, options, lambda _host, lead: lead())
        endpoint = Endpoint(parse_host("db"), "")
        followed.begin(endpoint)
        await asyncio.sleep(0.5)
        (former,) = followed.stop(endpoint.host)
        followed.begin(endpoint)
        await asyncio.sleep(0)
        former.cancel()
        await asyncio.sleep(10)
        assert len(names.lookups) > 10
        for task in followed.stop_all():
            task.cancel()

    run(play(), clock)


class AtOnce(ScriptedNames):
    """Answers without a pause, as a resolver does from its cache."""

    async def lookup_async(self, host: str) -> Answer:
        self.lookups.append(host)
        return Answer(self.addresses[host], self.ttl)


@pytest.mark.parametrize(
    "case", ["idle", "nothing open", "a lease breaks", "no session", "a login is under way"]
)
def test_9_nothing_at_a_new_address_is_lent_before_a_probe_has_said_what_is_there(
    case: str,
) -> None:
    """A copy may be there, which would accept the application's writes."""
    clock = VirtualClock()
    kwargs = {"min_size": 0, "max_size": 4}
    manager, old, _, names = moving(clock=clock, refresh_delay=1.0, pool_factory_kwargs=kwargs)
    copy = manager.driver.at["10.0.0.2"] = FakeServer(parse_host("db"), master=True, system_id=8)
    old.latency = copy.latency = 0.2  # a probe takes longer than a broken lease holds its host

    async def play() -> None:
        async with manager:
            await manager.ready(1, 0)
            lease = manager.acquire_master()
            connection = await lease.__aenter__()
            async with manager.acquire_master() as idle:
                pass
            if case == "nothing open":
                await lease.__aexit__(None, None, None)
                for each in (connection, idle):
                    each.lose()
            if case == "no session":
                old.login_error, old.latency = ServerError("53300"), 0.0
                next(x for x in old.connections if x.on_lost is not None).lose()
                await until(lambda: manager.metrics().nodes[0].health is Health.SUSPECT)
            logging_in: asyncio.Future[FakeConnection] | None = None
            if case == "a login is under way":
                await lease.__aexit__(None, None, None)
                lookups = len(names.lookups)
                await until(lambda: len(names.lookups) > lookups)
                await asyncio.sleep(0.9)  # the next look-up comes in a tenth of a second
                for each in pooled(old):
                    each.lose()
                logging_in = asyncio.ensure_future(manager.acquire_master(timeout=5))
            move_once(names, "10.0.0.2")
            # By then the name has moved, and the probe at the new address is under way.
            await until(lambda: idle.closed if case == "no session" else copy.logins > 0)
            if case == "a lease breaks":
                connection.lose()
                error = ConnectionResetError("it has broken")
                await lease.__aexit__(type(error), error, None)
            with pytest.raises(NotAvailableError):
                await manager.acquire_master(timeout=5)
            assert not pooled(copy)
            assert copy.probes
            if logging_in is not None:
                with pytest.raises(NotAvailableError):
                    await logging_in
            if case in {"idle", "no session"}:
                await lease.__aexit__(None, None, None)

    run(play(), clock)


async def test_9_a_lease_on_the_master_that_was_replaced_is_broken() -> None:
    manager, old, new, names = moving()
    async with manager, manager.acquire_master() as lent:
        names.addresses["db"] = ("10.0.0.2",)
        await until(lambda: lent.closed)
        assert not pooled(old)
        async with manager.acquire_master(timeout=5) as connection:
            assert connection.server is new


async def test_nothing_is_lent_until_it_is_known_what_the_name_means_now() -> None:
    manager, _, new, names = moving()
    new.master, new.reports_flag = False, False  # a standby, which only the monitor can find out
    told = asyncio.Event()

    async def first_login_waits() -> None:
        if new.logins == 1:
            await told.wait()

    new.before_login = first_login_waits
    async with manager:
        move_once(names, "10.0.0.2")
        await until(lambda: new.logins > 0)
        with pytest.raises(NotAvailableError):
            await manager.acquire_master(timeout=0.05)
        told.set()
        async with manager.acquire_replica(timeout=5) as connection:
            assert connection.server is new
        with pytest.raises(NotAvailableError):
            await manager.acquire_master(timeout=0.05)


async def test_a_probe_under_way_when_the_name_moves_goes_on_at_the_new_address() -> None:
    manager, old, new, names = moving(refresh_delay=60, refresh_timeout=50)
    async with manager:
        old.freeze()
        waiting = asyncio.create_task(manager.wait_next_pool_check(60))
        names.addresses["db"] = ("10.0.0.2",)
        # This is long before the next probe would be due.
        async with asyncio.timeout(10):
            await until(lambda: bool(pooled(new)) or bool(new.connections))
            async with manager.acquire_master(timeout=5) as connection:
                assert connection.server is new
        await waiting
        old.thaw()


async def test_the_monitor_leaves_at_once_and_not_with_its_next_probe() -> None:
    manager, _, new, names = moving(refresh_delay=60)
    async with manager:
        move_once(names, "10.0.0.2")
        await until(lambda: any(each.on_lost is not None for each in new.connections))


async def test_an_address_that_stays_keeps_its_connections() -> None:
    manager, old, _, names = moving()
    names.addresses["db"] = ("10.0.0.1", "10.0.0.3")
    manager.driver.at["10.0.0.3"] = old
    async with manager:
        before = tuple(old.connections)
        for addresses in (("10.0.0.1", "10.0.0.2"), ("10.0.0.1",)):
            names.addresses["db"] = addresses
            await until_heard(names)
        assert tuple(old.connections) == before


async def test_a_name_that_rotates_drains_nothing_that_is_well() -> None:
    manager, old, _, names = moving()
    manager.driver.at["10.0.0.2"] = old
    async with manager:
        names.addresses["db"] = ("10.0.0.2",)  # so far this looks like a move
        await until(lambda: {each.address for each in old.connections} == {"10.0.0.2"})
        before = tuple(old.connections)
        for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
            names.addresses["db"] = (address,)
            await until_heard(names)
        assert tuple(old.connections) == before


def test_9_a_name_that_rotates_is_believed_at_once_of_a_master_that_replaces_another() -> None:
    async def play(
        manager: FakeManager, old: FakeServer, new: FakeServer, names: ScriptedNames
    ) -> None:
        async with manager.acquire_master() as connection:
            assert connection.server is old
        await asyncio.sleep(5)
        manager.driver.at["10.0.0.3"] = new
        await rotate(names, "10.0.0.3")
        async with manager.acquire_master(timeout=1) as connection:
            assert connection.server is new

    play_rotating(play)


def test_7_a_master_whose_name_rotates_is_not_logged_in_to_with_each_answer() -> None:
    async def play(_: FakeManager, old: FakeServer, __: FakeServer, names: ScriptedNames) -> None:
        before = old.logins
        await rotate(names, *("10.0.0.2", "10.0.0.1") * 60)
        # In 132 s there are 4 looks, one every 30 s, and those that the first answers cause.
        assert 5 <= old.logins - before <= 12

    play_rotating(play)


def play_rotating(
    play: Callable[[FakeManager, FakeServer, FakeServer, ScriptedNames], Awaitable[None]],
) -> None:
    """In virtual time, play a scene to a manager of one name that is known to rotate."""
    clock = VirtualClock()

    async def begin() -> None:
        manager, old, new, names = moving(clock=clock, refresh_delay=1.0)
        manager.driver.at["10.0.0.2"] = old
        async with manager:
            await rotate(names, "10.0.0.2", "10.0.0.1")
            await play(manager, old, new, names)

    run(begin(), clock)


async def rotate(names: ScriptedNames, *addresses: str) -> None:
    """Let the name lead to these addresses one after the other, one in each answer."""
    for address in addresses:
        names.addresses["db"] = (address,)
        await asyncio.sleep(1.1)  # longer than a name is kept


async def test_a_source_that_fails_changes_nothing_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager, old, _, names = moving()
    async with manager:
        before = tuple(old.connections)
        del names.addresses["db"]
        lookups = len(names.lookups)
        await until(lambda: len(names.lookups) >= lookups + 2)
        assert tuple(old.connections) == before
        async with manager.acquire_master():
            pass
    assert [r.message for r in caplog.records].count(
        "db:5432: its name cannot be followed: no such name: db"
    ) == 1


async def test_an_error_that_nobody_foresees_does_not_end_the_following(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager, _, new, names = moving()
    async with manager:
        names.error = RuntimeError("can't start new thread")
        await until(lambda: "cannot be followed: can't start new thread" in caplog.text)
        names.error = None
        names.addresses["db"] = ("10.0.0.2",)
        await until(lambda: bool(new.connections))


async def test_a_name_that_the_system_cannot_take_is_one_that_it_does_not_know() -> None:
    with pytest.raises(OSError, match="not a name"):
        await SystemNames().lookup_async("db..example.com")


def test_12_a_look_up_of_the_systems_that_hangs_holds_up_no_programs_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, answered = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        asked.set()
        answered.wait(10)
        return []

    async def program() -> None:
        looking_up = asyncio.ensure_future(SystemNames().lookup_async("db.example.com"))
        await until(asked.is_set)
        looking_up.cancel()

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    ending = threading.Timer(8, answered.set)
    ending.start()
    try:
        asyncio.run(program())
        assert not answered.is_set()
    finally:
        ending.cancel()
        answered.set()


async def test_a_name_that_is_not_known_yet_is_left_to_the_driver() -> None:
    manager, old, _, names = moving()
    names.addresses.clear()
    async with manager, manager.acquire_master() as connection:
        assert connection.server is old
        assert connection.address is None


async def test_a_name_is_looked_up_each_second_while_its_host_does_not_answer() -> None:
    manager, old, new, names = moving(ttl=60.0)
    async with manager:
        names.addresses["db"] = ("10.0.0.2",)
        old.kill()  # the last answer, with a TTL of a minute, does not tell of the move
        async with manager.acquire_master(timeout=5) as connection:
            assert connection.server is new
    assert "db" in names.expired


async def test_a_name_is_looked_up_each_second_while_its_replica_is_away() -> None:
    names = ScriptedNames(60.0)
    names.addresses = {"a": ("10.0.0.9",), "db": ("10.0.0.1",)}
    servers = fake_cluster("a master", "db replica")
    old, new = servers["db"], FakeServer(parse_host("db"), master=False)
    manager = manager_of(servers, names=names, refresh_delay=0.05)
    manager.driver.at = {"10.0.0.9": servers["a"], "10.0.0.1": old, "10.0.0.2": new}
    async with manager:
        await manager.ready(1, 1)
        names.addresses["db"] = ("10.0.0.2",)
        old.kill()
        async with manager.acquire_replica(timeout=5) as connection:
            assert connection.server is new


async def test_a_name_is_looked_up_each_second_while_no_master_is_known() -> None:
    manager, standby, master, names = moving(ttl=60.0)
    standby.master = False
    async with manager:
        await manager.ready(0, 1)
        await until(lambda: len(names.lookups) >= 3)
        names.addresses["db"] = ("10.0.0.2",)  # the standby goes on answering
        async with manager.acquire_master(timeout=5) as connection:
            assert connection.server is master


async def test_a_connect_that_hangs_at_an_address_that_the_name_leaves_is_begun_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager, old, new, names = moving(refresh_timeout=30.0)
    old.freeze()
    acquiring = asyncio.ensure_future(manager.acquire_master(timeout=10))
    await until(lambda: bool(names.lookups))
    names.addresses["db"] = ("10.0.0.2",)
    connection = await acquiring
    assert connection.server is new
    await manager.release(connection)
    await manager.close()
    assert "is down" not in caplog.text  # that the name has moved is no failure


async def test_the_master_is_found_at_whichever_address_of_a_name_it_is() -> None:
    manager, first, master, names = moving()
    first.master, second = False, FakeServer(parse_host("db"), master=False)
    manager.driver.at = {"10.0.0.1": first, "10.0.0.2": second, "10.0.0.3": master}
    names.addresses["db"] = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    async with manager:
        for _ in range(3):
            async with manager.acquire_master(timeout=10) as connection:
                assert connection.server is master


async def test_names_are_not_followed_if_that_is_not_wanted() -> None:
    manager, old, _, names = moving(follow_names=False)
    async with manager, manager.acquire_master() as connection:
        assert connection.server is old
    assert not names.lookups


async def test_closing_leaves_nothing_behind() -> None:
    manager, _, _, _ = moving()
    before = asyncio.all_tasks()
    async with manager:
        pass
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("db", True),
        ("db.example.com:6432", True),
        ("10.0.0.1", False),
        ("[::1]:5433", False),
        ("/run/postgresql", False),
        ("db[10.0.0.1]:5432", False),
    ],
)
def test_what_is_a_name(host: str, name: bool) -> None:
    assert is_name(parse_host(host)) is name


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_follow_names_is_true_or_false(value: object) -> None:
    with pytest.raises(TypeError, match="follow_names must be True or False"):
        moving(follow_names=value)
