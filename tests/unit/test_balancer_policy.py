"""Balancer policies: how each distributes acquires, and what a user's own policy may do.

Where chance decides, `assert_share` allows six standard deviations. For the numbers used here the
exact binomial tails beyond them are below 5e-9. There are about a hundred such comparisons, so the
whole file raises a false alarm less often than once in a million runs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from math import sqrt
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasql.balancer_policy import (
    BaseBalancerPolicy,
    GreedyBalancerPolicy,
    RandomWeightedBalancerPolicy,
    RoundRobinBalancerPolicy,
)
from hasql.cluster.host import HostSpec, parse_host
from hasql.errors import ConfigurationError, HasqlError, NotAvailableError
from testbed.fake_driver import (
    FakeConnection,
    FakeManager,
    FakeServer,
    fake_cluster,
    manager_of,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from hasql.balancer_policy.base import CandidateT

pytestmark = pytest.mark.loops_in_turn

POLICIES = [GreedyBalancerPolicy, RandomWeightedBalancerPolicy, RoundRobinBalancerPolicy]
each_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__[:6])


@dataclass
class Fixed:
    """A candidate with fixed values."""

    position: int
    free: int = 10
    response_time: float | None = 0.001
    as_master: bool = False
    replayed: int | None = None
    lag_seconds: float | None = None
    label: str | None = None
    priority: int = 0
    weight: int = 1
    looked_at: int = 0

    @property
    def host(self) -> HostSpec:
        return HostSpec(f"h{self.position}", 5432)


def fixed(*response_times: float | None) -> list[Fixed]:
    """Make candidates with these response times."""
    return [Fixed(position, response_time=time) for position, time in enumerate(response_times)]


def counts(policy: BaseBalancerPolicy, candidates: Sequence[Fixed], times: int) -> list[int]:
    """Choose `times` times, and return how often each candidate was chosen."""
    chosen = Counter(policy.choose(candidates).position for _ in range(times))
    return [chosen[candidate.position] for candidate in candidates]


def assert_share(count: int, total: int, share: float) -> None:
    """Check that a number of successes agrees with their probability."""
    assert abs(count - total * share) <= 6 * sqrt(total * share * (1 - share)), (count, total)


def cluster_of(replicas: int) -> dict[str, FakeServer]:
    return fake_cluster("m master", *(f"r{number} replica" for number in range(replicas)))


def with_room(
    policy: type[BaseBalancerPolicy], size: int, idle: int | None = None
) -> dict[str, Any]:
    """Make the arguments of a manager whose pools have this size, and which does not probe again.

    All connections are opened at first, unless `idle` gives another number. If a busy machine
    stalls the loop while a host is being probed or connected to, the host becomes suspect and is
    avoided. That is right, but would distort the counts here.
    """
    return {
        "balancer_policy": policy,
        "pool_factory_kwargs": {"min_size": size if idle is None else idle, "max_size": size},
        "refresh_delay": 60,
    }


def host_of(connection: FakeConnection) -> str:
    return connection.server.host.host


async def at_once(acquires: Iterable[Awaitable[FakeConnection]]) -> list[FakeConnection]:
    """Run acquires concurrently, and return their connections."""

    async def one(acquire: Awaitable[FakeConnection]) -> FakeConnection:
        return await acquire

    return await asyncio.gather(*map(one, acquires))


async def give_back(manager: FakeManager, taken: Iterable[FakeConnection]) -> None:
    await asyncio.gather(*map(manager.release, taken))


async def reads(manager: FakeManager, number: int, weight: float | None = None) -> str:
    """Acquire replicas one after the other, and return the hosts' names in that order."""
    seen = ""
    for _ in range(number):
        async with manager.acquire_replica(master_as_replica_weight=weight) as connection:
            seen += host_of(connection)
    return seen


# Random, weighted


def test_one_millisecond_against_five_is_five_to_one() -> None:
    # Six standard deviations are 387 of 30,000. So the ratio is between 4.57 and 5.50, which is
    # within the tenth that is promised.
    fast, slow = counts(RandomWeightedBalancerPolicy(), fixed(0.001, 0.005), 30_000)
    assert_share(fast, 30_000, 5 / 6)
    assert slow == 30_000 - fast


@pytest.mark.parametrize(
    ("response_times", "shares"),
    [
        pytest.param((0.001,), (1.0,), id="one"),
        pytest.param((0.001, 0.002, 0.004), (4 / 7, 2 / 7, 1 / 7), id="three"),
        pytest.param((0.002,) * 8, (1 / 8,) * 8, id="all that are looked at"),
        pytest.param((None, None), (0.5, 0.5), id="none is known"),
        pytest.param((0.001, None, 0.001), (1 / 3,) * 3, id="one is not known"),
        # The inverses are as 1 to 1/5; the third counts as their mean.
        pytest.param((0.001, 0.005, None), (5 / 9, 1 / 9, 3 / 9), id="not known: the average"),
        pytest.param((0.0, 0.0), (0.5, 0.5), id="no time at all"),
        pytest.param((0.0, 1e-9), (0.5, 0.5), id="too short to be told from none"),
        pytest.param((5e-324, 1e-6), (0.5, 0.5), id="its inverse is infinite"),
        pytest.param((1e-6, 4e-6), (0.8, 0.2), id="short, but told"),
    ],
)
def test_shares_follow_the_inverse_of_the_response_times(
    response_times: tuple[float | None, ...], shares: tuple[float, ...]
) -> None:
    got = counts(RandomWeightedBalancerPolicy(), fixed(*response_times), 3000)
    for count, share in zip(got, shares, strict=True):
        assert_share(count, 3000, share)


@pytest.mark.parametrize(
    ("times", "weights", "shares"),
    [
        ((0.001, 0.001), (20, 10), (2 / 3, 1 / 3)),
        ((0.001, 0.002), (10, 20), (0.5, 0.5)),
        ((0.001, 0.001), (0, 0), (0.5, 0.5)),
        ((0.001, 0.001), (1, 0), (100 / 101, 1 / 101)),
        ((None, 0.001), (3, 1), (3 / 4, 1 / 4)),
    ],
)
def test_shares_follow_the_weights_of_a_source(
    times: tuple[float | None, ...], weights: tuple[int, ...], shares: tuple[float, ...]
) -> None:
    candidates = fixed(*times)
    for candidate, weight in zip(candidates, weights, strict=True):
        candidate.weight = weight
    got = counts(RandomWeightedBalancerPolicy(), candidates, 3000)
    for count, share in zip(got, shares, strict=True):
        assert_share(count, 3000, share)


def test_weighted_among_many_decides_between_two_drawn_evenly() -> None:
    # The one fast host of twelve is drawn in 2 of 12 cases, and is then chosen in 5 of 6.
    got = counts(RandomWeightedBalancerPolicy(), fixed(0.001, *[0.005] * 11), 12_000)
    assert_share(got[0], 12_000, 2 / 12 * 5 / 6)
    for count in got[1:]:
        assert_share(count, 12_000, (1 - 2 / 12 * 5 / 6) / 11)


class Sluggish(FakeServer):
    """A server that pauses before every answer."""

    pause = 0.0

    async def answer(self) -> None:
        await asyncio.sleep(self.pause)
        await super().answer()


async def test_a_fast_host_is_preferred_by_what_its_probes_took() -> None:
    fast, slow = parse_host("fast"), parse_host("slow")
    servers = {host: Sluggish(host, master=False) for host in (fast, slow)}
    servers[fast].pause, servers[slow].pause = 0.005, 0.025
    manager = FakeManager(
        servers, acquire_timeout=20, **with_room(RandomWeightedBalancerPolicy, 400, idle=0)
    )
    async with manager:
        await manager.ready()
        times = [manager.get_last_response_time(pool) or 0.0 for pool in manager.pools]
        assert times[1] >= 0.024  # uvloop's clock has a resolution of 1 ms
        asked = [asyncio.ensure_future(manager.acquire_replica()) for _ in range(400)]
        await asyncio.sleep(0)
        # All acquires have chosen a host, and none has its connection yet. The shares follow the
        # measured times, near 5 : 1 unless the machine stalls the loop. There the tail is 2e-8.
        chosen = [node.in_flight for node in manager.metrics().nodes]
        assert sum(chosen) == 400
        assert_share(chosen[0], 400, times[1] / sum(times))
        await asyncio.gather(*asked)
        await manager.terminate()


# Greedy


def test_greedy_takes_the_one_with_most_free() -> None:
    candidates = [Fixed(0, free=3), Fixed(1, free=5), Fixed(2, free=4)]
    assert counts(GreedyBalancerPolicy(), candidates, 100) == [0, 100, 0]


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_greedy_breaks_ties_at_random(number: int) -> None:
    candidates = [*fixed(*[0.001] * number), Fixed(number, free=1)]
    if number == 8:
        candidates.pop()  # a policy looks at no more than eight candidates
    got = counts(GreedyBalancerPolicy(), candidates, 3000)
    for count in got[:number]:
        assert_share(count, 3000, 1 / number)
    assert sum(got[:number]) == 3000


async def test_greedy_spreads_nine_simultaneous_acquires_five_to_four() -> None:
    async with manager_of(cluster_of(2), **with_room(GreedyBalancerPolicy, 10)) as manager:
        await manager.ready()
        more = []
        for _ in range(30):
            taken = await at_once(manager.acquire_replica() for _ in range(9))
            hosts = Counter(map(host_of, taken))
            assert sorted(hosts.values()) == [4, 5]
            more.append(max(hosts, key=lambda host: hosts[host]))
            await give_back(manager, taken)
        # Chance decides which of them gets one more: 30 times the same happens 1 time in 5e8.
        assert set(more) == {"r0", "r1"}


@pytest.mark.parametrize("min_size", [0, 9])
async def test_greedy_counts_what_is_in_use_already(min_size: int) -> None:
    kwargs = with_room(GreedyBalancerPolicy, 9, idle=min_size)
    async with manager_of(cluster_of(2), **kwargs) as manager:
        await manager.ready()
        pool = await manager.get_pool(read_only=True)
        held = await at_once(manager.acquire_from_pool(pool) for _ in range(4))
        taken = await at_once(manager.acquire_replica() for _ in range(4))
        assert not set(map(host_of, held)) & set(map(host_of, taken))
        await give_back(manager, [*held, *taken])


# If the better of two random nodes is chosen, the exact probability that any of twelve nodes is
# four or more above the mean is 1.0e-7 after any multiple of twelve choices. (That is the Markov
# chain of the loads, its states pruned below 1e-15, computed to 660 choices, where it has converged
# to eight digits.) If a single random node were chosen, one would nearly always be 15 or more above
# the mean after 1,200 choices.
MOST_ABOVE_MEAN = 3


def test_greedy_stays_fair_among_more_than_it_looks_at() -> None:
    policy, candidates = GreedyBalancerPolicy(), [Fixed(n, free=2000) for n in range(12)]
    for _ in range(1200):
        policy.choose(candidates).free -= 1
    used = [2000 - candidate.free for candidate in candidates]
    assert max(used) <= 1200 / 12 + MOST_ABOVE_MEAN


async def test_greedy_stays_fair_among_twelve_replicas() -> None:
    async with manager_of(cluster_of(12), **with_room(GreedyBalancerPolicy, 40)) as manager:
        await manager.ready()
        taken = await at_once(manager.acquire_replica(timeout=20) for _ in range(240))
        hosts = Counter(map(host_of, taken))
        assert max(hosts.values()) <= 240 / 12 + MOST_ABOVE_MEAN
        await manager.terminate()


class Watched(Fixed):
    """A candidate that counts how often a policy looks at it."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"free", "response_time"}:
            self.looked_at += 1
        return super().__getattribute__(name)


@pytest.mark.parametrize("policy", [GreedyBalancerPolicy, RandomWeightedBalancerPolicy])
@pytest.mark.parametrize(("number", "looked_at"), [(2, 2), (8, 8), (9, 2), (500, 2)])
def test_2_no_more_than_eight_are_looked_at(
    policy: type[BaseBalancerPolicy], number: int, looked_at: int
) -> None:
    candidates = [Watched(position) for position in range(number)]
    policy().choose(candidates)
    assert sum(candidate.looked_at > 0 for candidate in candidates) == looked_at


# Round robin


@given(st.lists(st.sets(st.integers(0, 5), min_size=1), max_size=60))
def test_round_robin_serves_those_that_stay_in_strict_turn(sets: list[set[int]]) -> None:
    """Between two turns of a node, each other node present throughout has exactly one turn."""
    policy, nodes = RoundRobinBalancerPolicy(), [Fixed(position) for position in range(6)]
    # For each pair of nodes that have both stayed: how often the first was chosen since the
    # last turn of the second.
    since: dict[tuple[int, int], int] = {}
    for present in sets:
        since = {pair: n for pair, n in since.items() if present.issuperset(pair)}
        chosen = policy.choose([nodes[position] for position in sorted(present)]).position
        assert chosen in present
        for other in present - {chosen}:
            assert since.get((chosen, other), 0) == 0, "two turns, and none of the other"
            since[chosen, other] = 1
            since[other, chosen] = 0


def test_round_robin_keeps_its_place_when_hosts_before_it_go_or_come() -> None:
    policy = RoundRobinBalancerPolicy()
    a, b, c, d = nodes = [Fixed(position) for position in range(4)]
    assert [policy.choose(nodes) for _ in range(2)] == [a, b]
    b.position, c.position, d.position = 0, 1, 2
    assert [policy.choose([b, c, d]) for _ in range(2)] == [c, d]
    a.position, b.position, c.position, d.position = 0, 1, 2, 3
    assert [policy.choose(nodes) for _ in range(4)] == [a, b, c, d]


async def test_round_robin_stays_fair_while_a_node_leaves_and_returns() -> None:
    servers = fake_cluster("a replica", "b replica", "c replica")
    policy = RoundRobinBalancerPolicy
    async with manager_of(servers, balancer_policy=policy, refresh_delay=0.02) as manager:
        await manager.ready()
        assert await reads(manager, 7) == "abcabca"
        servers["b"].kill()
        await until(lambda: manager.replica_pool_count == 2)
        assert await reads(manager, 6) == "cacaca"
        servers["b"].restart()
        await until(lambda: manager.replica_pool_count == 3)
        assert await reads(manager, 6) == "bcabca"
        servers["a"].kill()
        await until(lambda: manager.replica_pool_count == 2)
        assert await reads(manager, 4) == "bcbc"


async def test_round_robin_gives_the_turn_of_a_full_node_to_the_next() -> None:
    servers = fake_cluster("a replica", "b replica", "c replica")
    async with manager_of(servers, **with_room(RoundRobinBalancerPolicy, 1)) as manager:
        await manager.ready()
        held = await manager.acquire_replica()
        assert host_of(held) == "a"
        assert await reads(manager, 4) == "bcbc"
        await manager.release(held)
        assert await reads(manager, 4) == "abca"


async def test_round_robin_gives_simultaneous_acquires_to_all_alike() -> None:
    async with manager_of(cluster_of(3), **with_room(RoundRobinBalancerPolicy, 10)) as manager:
        await manager.ready()
        taken = await at_once(manager.acquire_replica() for _ in range(12))
        assert Counter(map(host_of, taken)) == {"r0": 4, "r1": 4, "r2": 4}
        await give_back(manager, taken)


async def test_round_robin_takes_turns_among_masters_and_among_replicas() -> None:
    servers = fake_cluster("a master", "b master", "c replica", "d replica")
    policy = RoundRobinBalancerPolicy
    async with manager_of(servers, balancer_policy=policy, fencing=False) as manager:
        await manager.ready(2, 2)
        seen = ""
        for number in range(12):
            async with manager.acquire(read_only=bool(number % 2)) as connection:
                seen += host_of(connection)
        assert seen == "acbd" * 3


# The masters' share of reads


@each_policy
@pytest.mark.parametrize("replicas", [1, 2, 5])
async def test_the_masters_share_of_reads_is_as_given(
    policy: type[BaseBalancerPolicy], replicas: int
) -> None:
    async with manager_of(
        cluster_of(replicas), master_as_replica_weight=0.25, **with_room(policy, 2)
    ) as manager:
        await manager.ready()
        assert_share((await reads(manager, 3000)).count("m"), 3000, 0.25)
        assert "m" not in await reads(manager, 100, 0)
        assert await reads(manager, 100, 1) == 100 * "m"


@each_policy
async def test_the_masters_share_of_simultaneous_reads_is_as_given(
    policy: type[BaseBalancerPolicy],
) -> None:
    async with manager_of(cluster_of(2), **with_room(policy, 1000)) as manager:
        await manager.ready()
        taken = await at_once(
            manager.acquire_replica(timeout=20, master_as_replica_weight=0.25) for _ in range(1000)
        )
        assert_share(list(map(host_of, taken)).count("m"), 1000, 0.25)
        await manager.terminate()


@each_policy
async def test_a_master_gets_no_more_than_its_share_when_replicas_are_exhausted(
    policy: type[BaseBalancerPolicy],
) -> None:
    """The other reads wait for a replica, as they would if the master had no share."""
    async with manager_of(cluster_of(2), **with_room(policy, 300)) as manager:
        await manager.ready()
        held = await at_once(manager.acquire_replica(timeout=20) for _ in range(600))
        asked = [
            asyncio.ensure_future(
                manager.acquire_replica(timeout=20, master_as_replica_weight=0.25)
            )
            for _ in range(300)
        ]
        await until(lambda: manager.metrics().waiting + sum(map(asyncio.Task.done, asked)) == 300)
        got = [host_of(task.result()) for task in asked if task.done()]
        assert set(got) == {"m"}
        assert_share(len(got), 300, 0.25)
        waiting = [task for task in asked if not task.done()]
        await give_back(manager, held)
        assert set(map(host_of, await asyncio.gather(*waiting))) <= {"r0", "r1"}
        await manager.terminate()


@each_policy
async def test_reads_of_an_exhausted_masters_share_go_to_replicas(
    policy: type[BaseBalancerPolicy],
) -> None:
    async with manager_of(cluster_of(2), **with_room(policy, 1)) as manager:
        await manager.ready()
        writer = await manager.acquire_master()
        taken = [await manager.acquire_replica(master_as_replica_weight=1) for _ in range(2)]
        assert sorted(map(host_of, taken)) == ["r0", "r1"]
        # While all hosts are exhausted, such reads take the first place that becomes free.
        for held in (writer, taken[0]):
            waiting = asyncio.ensure_future(
                manager.acquire_replica(timeout=20, master_as_replica_weight=1)
            )
            await until(lambda: manager.metrics().waiting == 1)
            host = host_of(held)
            await manager.release(held)
            assert host_of(await waiting) == host
        await manager.terminate()


async def test_a_share_is_no_fallback_for_absent_replicas() -> None:
    async with manager_of(fake_cluster("m master"), acquire_timeout=0.02) as manager:
        with pytest.raises(NotAvailableError):
            # That 1,000 acquires in a row do not draw the master has a probability of 1e-125.
            await reads(manager, 1000, 0.75)
        assert await reads(manager, 100, 1) == 100 * "m"


# A policy of the user's own


async def test_a_users_own_policy_is_one_method() -> None:
    class Last(BaseBalancerPolicy):
        def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
            return candidates[-1]

    servers = fake_cluster("a replica", "b replica", "c replica")
    async with manager_of(servers, balancer_policy=Last) as manager:
        await manager.ready()
        assert isinstance(manager.balancer, Last)
        # A policy that ignores load still gets only nodes that have room.
        taken = [await manager.acquire_replica() for _ in range(6)]
        assert list(map(host_of, taken)) == list("ccbbaa")
        await manager.terminate()


async def test_what_a_policy_is_given() -> None:
    given = []

    class Recording(BaseBalancerPolicy):
        def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
            given.append(
                [
                    (str(c.host), c.position, c.as_master, c.free, c.response_time)
                    for c in candidates
                ]
            )
            return candidates[0]

    servers = fake_cluster("b replica", "a master", "c replica", "d replica")
    async with manager_of(servers, balancer_policy=Recording) as manager:
        await manager.ready()
        pool = await manager.get_pool(read_only=True)
        direct = [await pool.acquire() for _ in range(2)]
        for connection in direct:
            manager.register_connection(connection, pool)
        # One more connection is registered than the node may lend.
        pool.sizes = type(pool.sizes)(0, 3)
        manager.register_connection(extra := await pool.acquire(), pool)
        given.clear()
        async with manager.acquire_master():
            assert given == [], "one candidate is no choice"
        async with manager.acquire_replica() as connection:
            assert host_of(connection) == "c"
        full, roomy = given
        assert [row[:4] for row in full] == [
            ("b:5432", 0, False, 0),
            ("c:5432", 2, False, 2),
            ("d:5432", 3, False, 2),
        ]
        assert [row[0] for row in roomy] == ["c:5432", "d:5432"]
        assert all(0 < (row[4] or 0) < 10 for row in full)
        await give_back(manager, [*direct, extra])


class Moody(BaseBalancerPolicy):
    """Chooses the first candidate, until a test replaces `does`."""

    def __init__(self) -> None:
        self.does: Callable[[Sequence[Any]], Any] = lambda candidates: candidates[0]

    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        chosen: CandidateT = self.does(candidates)
        return chosen


def fail(candidates: Sequence[Any]) -> Any:
    raise LookupError(f"none of these {len(candidates)}")


def moods(manager: FakeManager) -> Moody:
    policy = manager.balancer
    assert isinstance(policy, Moody)
    return policy


MISTAKES = [
    pytest.param(fail, LookupError, "none of these 2", id="raises"),
    pytest.param(lambda _: next(iter(())), RuntimeError, "StopIteration", id="has no next"),
    pytest.param(lambda _: None, ConfigurationError, "Moody chose None, which is", id="None"),
    pytest.param(
        lambda _: Fixed(0), ConfigurationError, "Moody chose Fixed.*no.*candidates", id="foreign"
    ),
    pytest.param(lambda found: found[0].host, ConfigurationError, "HostSpec", id="its host"),
    pytest.param(lambda found: found, ConfigurationError, "one of the candidates", id="all"),
]


@pytest.mark.parametrize(("mistake", "error", "says"), MISTAKES)
async def test_a_policys_mistake_fails_its_acquire_and_nothing_else(
    mistake: Callable[[Sequence[Any]], Any], error: type[Exception], says: str
) -> None:
    servers = fake_cluster("a replica", "b replica")
    async with manager_of(servers, **with_room(Moody, 1)) as manager:
        await manager.ready()
        policy, sane = moods(manager), moods(manager).does
        policy.does = mistake
        with pytest.raises(error, match=says):
            await manager.acquire_replica()
        with pytest.raises(error, match=says):
            await manager.get_pool(read_only=True)
        policy.does = sane
        first, second = await manager.acquire_replica(), await manager.acquire_replica()
        waiting = asyncio.ensure_future(manager.acquire_replica(timeout=20))
        await until(lambda: manager.metrics().waiting == 1)
        policy.does = mistake
        await manager.release(first)
        with pytest.raises(error, match=says):
            await waiting
        policy.does = sane
        await manager.release(second)
        await manager.wait_next_pool_check()
        assert manager.replica_pool_count == 2
        assert [node.in_flight for node in manager.metrics().nodes] == [0, 0]


class Loyal(BaseBalancerPolicy):
    """Always chooses the first candidate it has ever met, whatever it is offered."""

    def __init__(self) -> None:
        self.first: Any = None

    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        self.first = chosen = self.first or candidates[0]
        return chosen


async def test_a_policy_that_keeps_to_one_that_has_left_is_told() -> None:
    servers = fake_cluster("a replica", "b replica", "c replica")
    async with manager_of(servers, balancer_policy=Loyal) as manager:
        await manager.ready()
        assert await reads(manager, 3) == "aaa"
        servers["a"].kill()
        await until(lambda: manager.replica_pool_count == 2)
        with pytest.raises(ConfigurationError, match="Loyal chose <Node a:5432 out"):
            await manager.acquire_replica()


async def test_a_policy_that_keeps_to_one_that_is_full_is_told() -> None:
    servers = fake_cluster("a replica", "b replica", "c replica")
    async with manager_of(servers, balancer_policy=Loyal) as manager:
        await manager.ready()
        async with manager.acquire_replica(), manager.acquire_replica():
            with pytest.raises(ConfigurationError, match="a:5432 replica 2/2 in flight"):
                await manager.acquire_replica()


async def test_a_policy_cannot_send_a_writer_to_a_replica() -> None:
    servers = fake_cluster("a master", "b master", "c replica", "d replica")
    async with manager_of(servers, balancer_policy=Loyal, fencing=False) as manager:
        await manager.ready(2, 2)
        assert await reads(manager, 1) == "c"
        with pytest.raises(ConfigurationError, match="c:5432 replica"):
            await manager.acquire_master()


# A policy given as an instance


class Preferring(BaseBalancerPolicy):
    """Chooses the candidate whose host comes first in a list of names."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        return min(candidates, key=lambda candidate: self.names.index(candidate.host.host))


async def test_a_policy_may_be_an_instance_with_arguments_of_its_own() -> None:
    policy = Preferring("c", "a", "b")
    servers = fake_cluster("a replica", "b replica", "c replica")
    async with manager_of(servers, balancer_policy=policy) as manager:
        await manager.ready()
        assert manager.balancer is policy
        taken = [await manager.acquire_replica() for _ in range(6)]
        assert list(map(host_of, taken)) == list("ccaabb")
        await manager.terminate()


async def test_an_instance_serves_one_manager_alone() -> None:
    policy = Preferring("b", "a")
    servers = fake_cluster("a replica", "b replica")
    async with manager_of(servers, balancer_policy=policy) as manager:
        chance = policy.chance
        with pytest.raises(
            ConfigurationError, match="this Preferring already serves another pool manager"
        ):
            manager_of(servers, balancer_policy=policy)
        # The first manager's policy is unchanged.
        assert policy.chance is chance
        await manager.ready()
        assert await reads(manager, 2) == "bb"


def test_an_instance_is_not_used_up_by_a_manager_that_was_refused() -> None:
    policy = Preferring("a")
    with pytest.raises(ConfigurationError):
        manager_of(fake_cluster("a master"), balancer_policy=policy, acquire_timeout=-1)
    assert manager_of(fake_cluster("a master"), balancer_policy=policy).balancer is policy


async def test_a_policy_has_its_chance_from_the_manager() -> None:
    class Seeded(FakeManager):
        @staticmethod
        def _chance() -> Random:
            return Random(7)  # noqa: S311  # no secret

    async def hosts(policy: type[BaseBalancerPolicy] | BaseBalancerPolicy) -> str:
        servers = cluster_of(12)  # among so many hosts, two are drawn at random
        by_host = {server.host: server for server in servers.values()}
        async with Seeded(
            by_host, **{**with_room(GreedyBalancerPolicy, 2), "balancer_policy": policy}
        ) as manager:
            await manager.ready()
            return await reads(manager, 50)

    once = await hosts(GreedyBalancerPolicy)
    assert once == await hosts(GreedyBalancerPolicy()) == await hosts(GreedyBalancerPolicy)
    assert len(set(once)) > 1


async def test_a_policy_sees_how_far_each_candidate_is() -> None:
    seen: dict[str, tuple[int | None, float | None, str | None]] = {}

    class Watching(BaseBalancerPolicy):
        def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
            for each in candidates:
                seen[each.host.host] = each.replayed, each.lag_seconds, each.label
            return max(candidates, key=lambda candidate: candidate.replayed or 0)

    a, b, c = (FakeServer(parse_host(name), master=name == "a") for name in "abc")
    b.replay_age = c.replay_age = 2.5
    a.position, b.position, c.position = 5000, 3000, 5000
    servers: dict[str, FakeServer] = {"a": a, "b": b, "c": c}
    async with manager_of(servers, balancer_policy=Watching) as manager:
        await manager.ready()
        # By then the master has reported its position, and each replica has done so again.
        await manager.wait_next_pool_check()
        assert await reads(manager, 1) == "c"
        # A host of the DSN has no label. A replica that has replayed everything has no lag.
        assert seen == {"b": (3000, 2.5, None), "c": (5000, 0.0, None)}
        b.position = 6000
        await manager.wait_next_pool_check()
        assert await reads(manager, 1) == "b"
        assert seen["b"] == (6000, 0.0, None)


def test_a_policy_without_the_method_is_refused_at_once() -> None:
    class Nothing(BaseBalancerPolicy):
        pass

    with pytest.raises((TypeError, HasqlError), match="Nothing"):
        manager_of(fake_cluster("a master"), balancer_policy=Nothing)
