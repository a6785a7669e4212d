"""The breaker of a cluster's masters: what it counts, and that it admits exactly one trial."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from hasql._leasing.lease import Lease
from hasql._routing.request import MASTER, REPLICA_OR_MASTER
from hasql.driver.deadline import SlowConnectError
from hasql.errors import (
    BreakerOpenError,
    ConfigurationError,
    NotAvailableError,
    OverloadedError,
    PoolManagerClosedError,
)
from hasql.events import BreakerClosed, BreakerOpened, Event
from hasql.metrics import BreakerState
from hasql.resilience import Admission, Breaker
from hasql.resilience.breaker_layer import BreakerLayer
from testbed.fake_driver import FakeDriver, FakeManager, FakeServer, fake_cluster, manager_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Host:
    """The part of a node that a breaker looks at."""

    def __init__(self, *, as_master: bool = True) -> None:
        self.as_master = as_master
        #: The error of the last connect to it.
        self.error: BaseException | None = None


class Bench:
    """A breaker whose clock is set by the test."""

    def __init__(self, threshold: int = 3, recovery: float = 30.0) -> None:
        self.now = 100.0
        self.masters: list[Any] = []
        self.told: list[Event] = []
        breaker = Breaker(threshold, recovery)
        self.breaker = BreakerLayer(
            breaker,
            FakeDriver({}),
            lambda: self.now,
            lambda: self.masters,
            self.told.append,
            lambda text: text.replace("secret", "***"),
        )

    @property
    def state(self) -> str:
        return self.breaker.measure().state.value

    def enter(self, request: Any = MASTER) -> Lease[Any, Any]:
        lease: Lease[Any, Any] = Lease(None, request, 1.0, {})
        self.breaker.enter_in_thread(lease, self.now + 1)
        return lease

    def fail(self, error: BaseException | None = None) -> Lease[Any, Any]:
        lease = self.enter()
        self.breaker.failed(lease, error or NotAvailableError("no master"))
        return lease

    def lend(self) -> Lease[Any, Any]:
        lease = self.enter()
        self.breaker.lent(lease)
        return lease

    def end(
        self, lease: Lease[Any, Any], error: BaseException | None = None, *, lost: bool = False
    ) -> None:
        lease.lost = lost
        self.breaker.returned(lease, Host(), error)  # type: ignore[arg-type]  # it sees no more

    def open(self) -> None:
        while self.state == "closed":
            self.fail()

    def is_refused(self) -> bool:
        with suppress(BreakerOpenError):
            self.breaker.failed(self.enter(), asyncio.CancelledError())
            return False
        return True


@pytest.fixture
def bench() -> Bench:
    return Bench()


# What counts


def test_it_opens_after_so_many_infrastructure_errors_in_a_row(bench: Bench) -> None:
    bench.fail()
    bench.fail(ConnectionResetError("gone"))
    assert bench.state == "closed"
    bench.end(bench.lend(), ConnectionResetError("the secret is gone"), lost=True)
    assert bench.state == "open"
    assert [type(event) for event in bench.told] == [BreakerOpened]
    with pytest.raises(BreakerOpenError) as raised:
        bench.enter()
    told = str(raised.value)
    assert "for 30.0 s more, or until a master is seen" in told
    assert "3 acquires or leases of a master have failed in a row" in told
    assert "ConnectionResetError: the *** is gone" in told
    assert bench.breaker.measure().refusals == 1
    bench.enter(REPLICA_OR_MASTER)  # reads are not stopped


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (ValueError("the application's"), False),
        (ConnectionError("of another service"), False),
        (TimeoutError("the application's own"), False),
        (None, False),
        (ValueError("on a connection that is closed"), True),
        (TimeoutError("the application's own, with which its driver closes the connection"), True),
    ],
)
def test_errors_of_the_application_never_open_it(
    bench: Bench, error: Exception | None, *, lost: bool
) -> None:
    for _ in range(20):
        bench.end(bench.lend(), error, lost=lost)
    assert bench.state == "closed"
    assert bench.breaker.measure().failures == 0


@pytest.mark.parametrize(
    "error",
    [
        OverloadedError("shed"),
        BreakerOpenError("open"),
        PoolManagerClosedError("closed"),
        ConfigurationError("a policy that chose nonsense"),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
    ],
)
def test_what_says_no_on_purpose_counts_as_nothing(bench: Bench, error: BaseException) -> None:
    for _ in range(20):
        bench.fail(error)
    assert bench.state == "closed"
    assert bench.breaker.measure().failures == 0


@pytest.mark.parametrize("why", ["terminated", "hit_session_limit"])
def test_18_what_hasql_or_a_limit_of_the_session_has_ended_tells_nothing(
    bench: Bench, why: str
) -> None:
    for _ in range(20):
        lease = bench.lend()
        setattr(lease, why, True)
        bench.end(lease, ConnectionResetError("gone"), lost=True)
    assert bench.state == "closed"
    bench.open()
    bench.now += 31
    trial = bench.lend()
    setattr(trial, why, True)
    bench.end(trial, ConnectionResetError("gone"), lost=True)
    assert bench.state == "half-open"
    trial = bench.lend()
    setattr(trial, why, True)
    bench.end(trial)  # as hasql ends a lease that is never given back
    assert bench.state == "half-open"
    bench.end(bench.lend())
    assert bench.state == "closed"


@pytest.mark.parametrize("error", [None, SlowConnectError("by the deadline")])
def test_18_who_has_given_too_little_time_tells_nothing_of_a_master_that_lets_connect(
    bench: Bench, error: Exception | None
) -> None:
    (master,) = bench.masters = [Host()]
    master.error = error
    for _ in range(20):
        bench.fail()
    assert bench.state == "closed"
    assert bench.breaker.measure().failures == 0
    master.error = ConnectionRefusedError("by the server")
    for _ in range(3):
        bench.fail()
    assert bench.state == "open"


def test_a_master_whose_places_are_all_taken_is_no_failure(bench: Bench) -> None:
    error = NotAvailableError("all in use")
    error.exhausted = True
    for _ in range(20):
        bench.fail(error)
    assert bench.state == "closed"


def test_what_ends_well_in_between_begins_the_count_anew(bench: Bench) -> None:
    for _ in range(10):
        bench.fail()
        bench.fail()
        bench.end(bench.lend())
    assert bench.state == "closed"


@pytest.mark.parametrize("error", [asyncio.CancelledError(), None])
def test_a_lease_that_tells_nothing_leaves_the_count_as_it_is(
    bench: Bench, error: BaseException | None
) -> None:
    bench.fail()
    bench.fail()
    bench.end(bench.lend(), error, lost=error is None)  # closed, not known by whom
    bench.fail()
    assert bench.state == "open"


def test_failures_of_reads_and_of_one_pool_do_not_count(bench: Bench) -> None:
    for _ in range(20):
        bench.breaker.failed(bench.enter(REPLICA_OR_MASTER), NotAvailableError("no replica"))
        lease = bench.enter(REPLICA_OR_MASTER)
        bench.breaker.lent(lease)
        bench.end(lease, ConnectionResetError(), lost=True)
    assert bench.state == "closed"


def test_leases_of_a_master_that_was_replaced_tell_nothing_of_the_new_one(bench: Bench) -> None:
    leases = [bench.lend() for _ in range(9)]
    bench.masters = [Host()]
    for lease in leases:
        lease.lost = True
        old = Host(as_master=False)
        bench.breaker.returned(lease, old, ConnectionResetError())  # type: ignore[arg-type]
    assert bench.state == "closed"


# The trial


def test_exactly_one_trial_goes_through_and_its_success_closes_it(bench: Bench) -> None:
    bench.open()
    bench.now += 29.9
    assert bench.is_refused()
    bench.now += 0.2
    assert bench.state == "half-open"
    trial = bench.lend()
    for _ in range(8):
        with pytest.raises(BreakerOpenError, match="until the trial under way"):
            bench.enter()
    bench.end(trial)
    assert bench.state == "closed"
    assert [type(event) for event in bench.told] == [BreakerOpened, BreakerClosed]
    bench.fail()  # the breaker counts from zero again
    assert bench.state == "closed"


@pytest.mark.parametrize("lent", [False, True])
def test_a_trial_that_fails_opens_it_anew(bench: Bench, *, lent: bool) -> None:
    bench.open()
    bench.now += 31
    if lent:
        bench.end(bench.lend(), ConnectionResetError(), lost=True)
    else:
        bench.fail()
    assert bench.state == "open"
    bench.now += 29
    assert bench.is_refused()
    bench.now += 2
    assert not bench.is_refused()
    assert [type(event) for event in bench.told] == [BreakerOpened, BreakerOpened]


def test_an_error_of_the_application_is_a_success_of_the_trial(bench: Bench) -> None:
    bench.open()
    bench.now += 31
    bench.end(bench.lend(), ValueError("the application's"))
    assert bench.state == "closed"


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt()])
@pytest.mark.parametrize("lent", [False, True])
def test_a_trial_that_is_cancelled_frees_the_trial(
    bench: Bench, error: BaseException, *, lent: bool
) -> None:
    bench.open()
    bench.now += 31
    if lent:
        bench.end(bench.lend(), error)
    else:
        bench.fail(error)
    assert bench.state == "half-open"
    trial = bench.lend()
    assert bench.is_refused()
    bench.end(trial)
    assert bench.state == "closed"


def test_a_trial_that_works_for_long_keeps_nobody_waiting(bench: Bench) -> None:
    bench.open()
    bench.now += 31
    trial = bench.lend()
    bench.now += 0.9
    assert bench.is_refused()
    bench.now += 0.2
    bench.end(bench.lend())
    assert bench.state == "closed"
    bench.end(trial, ConnectionResetError(), lost=True)  # counts like any other lease
    assert bench.breaker.measure().failures == 1


def test_a_probe_that_sees_a_master_is_word_enough_for_one_trial(bench: Bench) -> None:
    bench.open()
    bench.breaker.master_seen(bench.now - 1)  # the probe had begun before the breaker opened
    assert bench.is_refused()
    bench.now += 1
    bench.breaker.master_seen(bench.now)
    bench.fail()
    bench.now += 1
    bench.breaker.master_seen(bench.now)  # a trial failed since, so the probe does not count
    assert bench.is_refused()
    bench.breaker.master_seen(None)  # another master begins to serve
    bench.end(bench.lend())
    assert bench.state == "closed"


# In a manager


@asynccontextmanager
async def broken(
    **kwargs: Any,
) -> AsyncIterator[tuple[FakeManager, dict[str, FakeServer], list[Event]]]:
    """Make a manager whose master is dead, and whose breaker has opened."""
    servers = fake_cluster("a master", "b replica")
    told: list[Event] = []
    async with manager_of(
        servers, refresh_delay=0.05, breaker=Breaker(threshold=3), **kwargs
    ) as manager:
        manager.add_listener(told.append)
        await manager.ready(1, 1)
        servers["a"].kill()
        await until(lambda: manager.master_pool_count == 0)
        for _ in range(3):
            with pytest.raises(NotAvailableError, match="hosts:"):
                await manager.acquire_master(timeout=0.01)
        yield manager, servers, told


def state_of(manager: FakeManager) -> BreakerState:
    breaker = manager.metrics().breaker
    assert breaker is not None
    return breaker.state


async def test_a_dead_master_opens_it_and_a_promotion_closes_it_by_one_trial() -> None:
    async with broken() as (manager, servers, told):
        began = asyncio.get_running_loop().time()
        with pytest.raises(BreakerOpenError):
            await manager.acquire_master(timeout=5.0)
        assert asyncio.get_running_loop().time() - began < 1.0, "at once"
        async with manager.acquire_replica():  # reads go on
            pass
        assert [node.breaker for node in manager.metrics().nodes] == [
            BreakerState.OPEN,
            BreakerState.CLOSED,
        ]
        servers["b"].promote()
        await until(lambda: state_of(manager) is BreakerState.HALF_OPEN)
        done, results = asyncio.Event(), []

        async def use() -> None:
            try:
                async with manager.acquire_master():
                    await done.wait()
                results.append("done")
            except BreakerOpenError:
                results.append("refused")

        tasks = [asyncio.create_task(use()) for _ in range(8)]
        await until(lambda: len(results) == 7)
        done.set()
        await asyncio.gather(*tasks)
        assert sorted(results) == ["done"] + ["refused"] * 7
        assert state_of(manager) is BreakerState.CLOSED
        async with manager.acquire_master():
            pass
        await until(lambda: BreakerClosed() in told)
        assert [type(x) for x in told if isinstance(x, BreakerOpened | BreakerClosed)] == [
            BreakerOpened,
            BreakerClosed,
        ]


async def test_a_trial_that_another_layer_refuses_is_free_again() -> None:
    async with broken(admission=Admission(1, queue=0)) as (manager, servers, _):
        servers["a"].restart()
        await until(lambda: state_of(manager) is BreakerState.HALF_OPEN)
        async with manager.acquire_replica():
            with pytest.raises(OverloadedError):
                await manager.acquire_master()
        async with manager.acquire_master():
            pass
        assert state_of(manager) is BreakerState.CLOSED


async def test_a_pool_that_is_used_up_does_not_open_it() -> None:
    async with manager_of(
        fake_cluster("a master"), breaker=Breaker(2), pool_factory_kwargs={"max_size": 1}
    ) as manager:
        await manager.ready(1, 0)
        async with manager.acquire_master():
            for _ in range(5):
                with pytest.raises(NotAvailableError):
                    await manager.acquire_master(timeout=0.01)
        assert state_of(manager) is BreakerState.CLOSED
        async with manager.acquire_master():
            pass


async def test_18_acquires_that_give_no_time_to_connect_do_not_open_it() -> None:
    servers = fake_cluster("a master")
    kwargs = {"max_size": 8}
    async with manager_of(servers, breaker=Breaker(2), pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 0)
        async with manager.acquire_master():  # takes the only open connection
            servers["a"].before_login = asyncio.Event().wait
            for _ in range(5):
                with pytest.raises(
                    NotAvailableError, match="did not finish by an acquire's deadline"
                ):
                    await manager.acquire_master(timeout=0.01)
            assert state_of(manager) is BreakerState.CLOSED
            servers["a"].before_login = None
            async with manager.acquire_master():
                pass


async def test_five_errors_of_the_application_do_not_open_it() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers, breaker=Breaker()) as manager:
        await manager.ready(1, 0)
        for _ in range(20):
            with pytest.raises(ValueError, match="mine"):
                async with manager.acquire_master():
                    raise ValueError("mine")
        assert state_of(manager) is BreakerState.CLOSED


async def test_who_asks_again_at_once_starves_no_loop() -> None:
    async with broken() as (manager, servers, _):
        servers["a"].restart()
        async with asyncio.timeout(5):
            while True:
                with suppress(BreakerOpenError):
                    async with manager.acquire_master():
                        break


async def test_a_manager_that_is_closed_says_so_and_not_that_its_breaker_is_open() -> None:
    async with broken() as (manager, _, _):
        await manager.close()
        with pytest.raises(PoolManagerClosedError):
            await manager.acquire_master()


async def test_off_it_is_no_metric() -> None:
    async with manager_of(fake_cluster("a master")) as manager:
        metrics = manager.metrics()
        assert metrics.breaker is None
        assert metrics.rate_limit is None
        assert metrics.admission is None
        assert metrics.replica_admission is None


@pytest.mark.parametrize(
    "arguments", [{"threshold": 0}, {"recovery": -1.0}, {"recovery": float("nan")}]
)
def test_what_cannot_work_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Breaker(**arguments)
