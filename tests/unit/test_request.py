"""Requests: which host serves which request, which acquires wait, and what waiting costs."""

from __future__ import annotations

import asyncio
import gc
from functools import partial
from time import monotonic, process_time
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import ref

import pytest

from hasql._routing.node import Node
from hasql._routing.request import (
    MASTER,
    MASTER_OR_REPLICA,
    REPLICA,
    REPLICA_OR_MASTER,
    Fallback,
    Request,
)
from hasql._routing.router import Router
from hasql._routing.waiters import AsyncWaiters
from hasql.balancer_policy import RoundRobinBalancerPolicy
from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Role
from hasql.driver import Endpoint, PoolSizes
from simulation.virtual_time import VirtualClock, run

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

AnyNode: TypeAlias = Node[Any, Any]
AnyRouter: TypeAlias = Router[Any, Any]

REQUESTS = (MASTER, REPLICA, REPLICA_OR_MASTER, MASTER_OR_REPLICA)
ROLES = {"m": Role.MASTER, "r": Role.REPLICA}


def make_node(name: str, places: int = 1) -> AnyNode:
    node: AnyNode = Node(Endpoint(HostSpec(name, 5432), ""), 0, PoolSizes(0, places), monotonic)
    node.as_master, node.as_replica = name == "m", name == "r"
    return node


class Stage:
    """A router, and its hosts by name: `m` is a master and `r` a replica."""

    def __init__(
        self,
        routed: str,
        full: str = "",
        suspect: str = "",
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.router: AnyRouter = Router(RoundRobinBalancerPolicy(), AsyncWaiters(clock))
        self.nodes = {name: make_node(name) for name in "mr"}
        self.route(routed, {ROLES[name] for name in suspect})
        for name in full:
            self.router.occupy_on(self.nodes[name])

    def route(self, routed: str, suspect: Collection[Role] = ()) -> None:
        masters = [self.nodes["m"]] if "m" in routed else []
        replicas = [self.nodes["r"]] if "r" in routed else []
        self.router.route(masters, replicas, suspect)

    def occupied(self, request: Request) -> str:
        """Ask for a place, and return the name of its host, or "-" if there is none."""
        node = self.router.occupy(request)
        return "-" if node is None else node.host.host


# The hosts in routing, the full ones among them, and the hosts that serve the four requests, in
# the order of REQUESTS.
TRUTH = [
    ("", "", "----"),
    ("m", "", "m-mm"),
    ("m", "m", "----"),
    ("r", "", "-rrr"),
    ("r", "r", "----"),
    ("mr", "", "mrrm"),
    ("mr", "m", "-rrr"),
    ("mr", "r", "m--m"),  # a full replica is not absent: there is no fallback to the master
    ("mr", "mr", "----"),
]


@pytest.mark.parametrize(("routed", "full", "expected"), TRUTH)
def test_who_gets_what_was_asked_for(routed: str, full: str, expected: str) -> None:
    for request, host in zip(REQUESTS, expected, strict=True):
        assert Stage(routed, full).occupied(request) == host, request


@pytest.mark.parametrize(
    ("suspect", "full", "expected"),
    [
        ("m", "", "mrrr"),  # a read of the masters' share goes to the replicas, which answer
        ("m", "r", "m--m"),
        ("r", "", "mrrm"),
        ("r", "m", "-rrr"),
        ("mr", "", "mrrr"),
    ],
)
def test_who_may_take_either_role_comes_last_to_one_that_is_silent(
    suspect: str, full: str, expected: str
) -> None:
    for request, host in zip(REQUESTS, expected, strict=True):
        assert Stage("mr", full, suspect).occupied(request) == host, request


# Which hosts serve the four requests if two more hosts refuse logins: the master `n` and the
# replica `s`.
@pytest.mark.parametrize(
    ("full", "expected"),
    [("", "mrrm"), ("m", "nrrr"), ("r", "mssm"), ("mr", "nssn"), ("mrn", "-sss"), ("mrs", "n--n")],
)
def test_those_that_let_nobody_in_come_last_to_whoever_may_have_them(
    full: str, expected: str
) -> None:
    for request, host in zip(REQUESTS, expected, strict=True):
        stage = Stage("")
        m, r = stage.nodes.values()
        n, s = make_node("n"), make_node("s")
        stage.router.route([n, m], [s, r], last={n, s})
        for node in (m, r, n, s):
            if node.host.host in full:
                stage.router.occupy_on(node)
        assert stage.occupied(request) == host, request


@pytest.mark.parametrize(("vacated", "expected"), [("m", "m--m"), ("r", "-rrr")])
async def test_who_waits_gets_the_place_that_is_given_back(vacated: str, expected: str) -> None:
    for request, host in zip(REQUESTS, expected, strict=True):
        stage = Stage("mr", "mr")
        waiter = stage.router.join(request, monotonic() + 60)
        stage.router.vacate(stage.nodes[vacated])
        assert (waiter.result().host.host if waiter.done() else "-") == host, request
        stage.router.leave(request, waiter)
        assert [node.in_flight for node in stage.nodes.values()] == [vacated != "m", vacated != "r"]
        stage.router.close()


@pytest.mark.parametrize(("routed", "expected"), [("m", "m-mm"), ("r", "-rrr"), ("mr", "mrrm")])
async def test_who_waits_is_served_by_what_comes_into_routing(routed: str, expected: str) -> None:
    for request, host in zip(REQUESTS, expected, strict=True):
        stage = Stage("")
        waiter = stage.router.join(request, monotonic() + 60)
        stage.route(routed)
        stage.router.dispatch()
        assert (waiter.result().host.host if waiter.done() else "-") == host, request
        stage.router.leave(request, waiter)
        stage.router.close()


async def test_whoever_has_asked_first_is_served_first_whatever_it_was() -> None:
    stage = Stage("mr", "mr")
    waiters = [stage.router.join(request, monotonic() + 60) for request in reversed(REQUESTS)]
    for name, first in zip("rrrm", waiters, strict=True):
        stage.router.vacate(stage.nodes[name])
        assert first.result().host.host == name
    stage.router.close()


def test_the_four_requests_are_those_there_are() -> None:
    passes = [[role.value for role in request.passes] for request in REQUESTS]
    both = ["master", "replica"]
    assert passes == [["master"], ["replica"], both[::-1], both]
    # Requests are compared, and looked up, by identity: an equal one would be another request.
    assert Request(Role.REPLICA, Fallback.ABSENT) != REPLICA_OR_MASTER


# Many waiters


def seconds_of(waiting: int) -> float:
    """Return the CPU seconds that each of some waiters costs, from joining to leaving."""
    stage = Stage("mr", "mr")
    router, nodes = stage.router, tuple(stage.nodes.values())
    deadline = monotonic() + 600
    began = process_time()
    waiters = [(REQUESTS[i % 4], router.join(REQUESTS[i % 4], deadline)) for i in range(waiting)]
    for number in range(waiting // 2):
        router.dispatch()  # each observation does this
        router.vacate(nodes[number % 2])
    for request, waiter in waiters[::-1]:
        router.leave(request, waiter)
    took = process_time() - began
    assert not router.waiting
    router.close()
    return took / waiting


async def test_ten_thousand_who_wait_cost_each_what_a_hundred_do() -> None:
    gc.collect()
    gc.disable()  # a collection takes longer the more objects there are, also of other tests
    try:
        few = min(sum(seconds_of(100) for _ in range(20)) / 20 for _ in range(5))
        many = min(seconds_of(10_000) for _ in range(3))
    finally:
        gc.enable()
    assert many < 3 * few, (many, few)


def seconds_of_each_end(waiting: int) -> float:
    """Return the CPU seconds that each of some waiters costs if they end by their deadlines."""
    clock = VirtualClock()
    ends: list[tuple[int, float]] = []

    async def wait() -> float:
        stage = Stage("mr", "mr", clock=clock)
        router, done = stage.router, asyncio.Event()

        def leave(number: int, request: Request, waiter: asyncio.Future[Any]) -> None:
            assert isinstance(waiter.exception(), TimeoutError)
            ends.append((number, clock.now))
            router.leave(request, waiter)
            if not router.waiting:
                done.set()

        began = process_time()
        for number in range(waiting):
            request = REQUESTS[number % 4]
            waiter = router.join(request, due_of(number))
            waiter.add_done_callback(partial(leave, number, request))
        await done.wait()
        took = process_time() - began
        router.close()
        return took / waiting

    def due_of(number: int) -> float:
        return 1.0 + (number * 7 % waiting) / 1000  # later waiters may have earlier deadlines

    seconds = run(wait(), clock)
    for rank, (number, at) in enumerate(ends):
        assert rank == number * 7 % waiting
        assert at == pytest.approx(due_of(number))
    assert len(ends) == waiting
    return seconds


def test_ten_thousand_who_wait_in_vain_cost_each_what_a_thousand_do() -> None:
    gc.collect()
    gc.disable()  # as above
    try:
        few = min(seconds_of_each_end(1_000) for _ in range(5))
        many = min(seconds_of_each_end(10_000) for _ in range(2))
    finally:
        gc.enable()
    assert many < 3 * few, (many, few)


def test_a_deadline_of_who_waits_no_more_ends_nobody_and_is_not_kept() -> None:
    clock = VirtualClock()

    async def play() -> None:
        waiters: AsyncWaiters[str, object] = AsyncWaiters(clock)
        stays = waiters.join("a place", 60.0)
        gone = [waiters.join("a place", 30.0) for _ in range(1000)]
        kept = [ref(waiter) for waiter in gone]
        for waiter in gone:
            waiters.leave("a place", waiter)
        del gone, waiter
        last = waiters.join("a place", 30.0)
        assert not any(waiter() for waiter in kept)
        waiters.leave("a place", last)
        with pytest.raises(TimeoutError):
            await stays  # type: ignore[misc]  # a future
        assert clock.now == pytest.approx(60.0)
        assert not last.done()

    run(play(), clock)
