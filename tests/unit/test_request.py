"""What an acquire asks for: which host serves it, who waits, and what waiting costs."""

from __future__ import annotations

import gc
from time import monotonic, process_time
from typing import TYPE_CHECKING, Any, TypeAlias

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

if TYPE_CHECKING:
    from collections.abc import Collection

AnyNode: TypeAlias = Node[Any, Any]
AnyRouter: TypeAlias = Router[Any, Any]

REQUESTS = (MASTER, REPLICA, REPLICA_OR_MASTER, MASTER_OR_REPLICA)
ROLES = {"m": Role.MASTER, "r": Role.REPLICA}


def make_node(name: str, places: int = 1) -> AnyNode:
    node: AnyNode = Node(Endpoint(HostSpec(name, 5432), ""), 0, PoolSizes(0, places), monotonic)
    node.as_master, node.as_replica = name == "m", name == "r"
    return node


class Stage:
    """A router, and the hosts in its routing by name: `m` is a master and `r` a replica."""

    def __init__(self, routed: str, full: str = "", suspect: str = "") -> None:
        self.router: AnyRouter = Router(RoundRobinBalancerPolicy(), AsyncWaiters(monotonic))
        self.nodes = {name: make_node(name) for name in "mr"}
        self.route(routed, {ROLES[name] for name in suspect})
        for name in full:
            self.router.occupy_on(self.nodes[name])

    def route(self, routed: str, suspect: Collection[Role] = ()) -> None:
        masters = [self.nodes["m"]] if "m" in routed else []
        replicas = [self.nodes["r"]] if "r" in routed else []
        self.router.route(masters, replicas, suspect)

    def occupied(self, request: Request) -> str:
        """Ask for a place, and return the name of its host; "-": there is none."""
        node = self.router.occupy(request)
        return "-" if node is None else node.host.host


# The hosts in routing, those of them that are full, and who gets the four requests, in the order
# of REQUESTS.
TRUTH = [
    ("", "", "----"),
    ("m", "", "m-mm"),
    ("m", "m", "----"),
    ("r", "", "-rrr"),
    ("r", "r", "----"),
    ("mr", "", "mrrm"),
    ("mr", "m", "-rrr"),
    ("mr", "r", "m--m"),  # a replica that is full is not absent: nobody falls back to the master
    ("mr", "mr", "----"),
]


@pytest.mark.parametrize(("routed", "full", "expected"), TRUTH)
def test_who_gets_what_was_asked_for(routed: str, full: str, expected: str) -> None:
    for request, host in zip(REQUESTS, expected, strict=True):
        assert Stage(routed, full).occupied(request) == host, request


@pytest.mark.parametrize(
    ("suspect", "full", "expected"),
    [
        ("m", "", "mrrr"),  # a read of the masters' share has the replicas, which answer
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
    # Compared, and looked up, by what they are: an equal one would be another.
    assert Request(Role.REPLICA, Fallback.ABSENT) != REPLICA_OR_MASTER


# Many who wait


def seconds_of(waiting: int) -> float:
    """Return what each of so many waiters costs from its coming to its going, in CPU seconds."""
    stage = Stage("mr", "mr")
    router, nodes = stage.router, tuple(stage.nodes.values())
    deadline = monotonic() + 600
    began = process_time()
    waiters = [(REQUESTS[i % 4], router.join(REQUESTS[i % 4], deadline)) for i in range(waiting)]
    for number in range(waiting // 2):
        router.dispatch()  # as each observation does
        router.vacate(nodes[number % 2])
    for request, waiter in waiters[::-1]:
        router.leave(request, waiter)
    took = process_time() - began
    assert not router.waiting
    router.close()
    return took / waiting


async def test_ten_thousand_who_wait_cost_each_what_a_hundred_do() -> None:
    gc.collect()
    gc.disable()  # it takes longer the more there is, whosever it is
    try:
        few = min(sum(seconds_of(100) for _ in range(20)) / 20 for _ in range(5))
        many = min(seconds_of(10_000) for _ in range(3))
    finally:
        gc.enable()
    assert many < 3 * few, (many, few)
