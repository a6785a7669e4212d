"""Measures how the cost of an acquire grows with hosts, and that of a failover with waiters.

    make bench ARGS=scale
    python benchmarks/scale.py [--rounds 200] [--save FILE]

The benchmark uses the fake driver of the tests. Its pools cost next to nothing, so the times show
only what hasql itself does.
"""

import argparse
import asyncio
import gc
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

# Import hasql from the checkout, not an installed one.
sys.path.insert(0, str(Path(__file__).parent.parent))

from hasql.balancer_policy import (
    BaseBalancerPolicy,
    GreedyBalancerPolicy,
    RandomWeightedBalancerPolicy,
    RoundRobinBalancerPolicy,
)
from testbed.fake_driver import (
    FakeConnection,
    FakeManager,
    FakePool,
    fake_cluster,
    manager_of,
)

__all__ = ("main",)

_POLICIES: tuple[type[BaseBalancerPolicy], ...] = (
    GreedyBalancerPolicy,
    RandomWeightedBalancerPolicy,
    RoundRobinBalancerPolicy,
)
_HOSTS = (3, 8, 10, 100)
_REFERENCE = 8
_WAITERS = (1, 10, 100, 1_000, 10_000)
_LAP = 200
"""The number of acquires in a lap, which lasts some milliseconds."""


def quicken(manager: FakeManager) -> None:
    """Make the pools take connections back at once, without a round trip for a reset."""

    async def release(pool: FakePool, connection: FakeConnection) -> None:
        pool.lent.discard(connection)
        if not connection.closed:
            pool.free.append(connection)

    for pool in manager.driver.pools:
        pool.release = partial(release, pool)  # type: ignore[method-assign]


@asynccontextmanager
async def many_hosts(hosts: int, policy: type[BaseBalancerPolicy]) -> AsyncIterator[FakeManager]:
    """Run a manager with one master and many replicas."""
    servers = fake_cluster("h0 master", *(f"h{i} replica" for i in range(1, hosts)))
    # Probes are rare, so that none falls into a lap.
    async with manager_of(servers, balancer_policy=policy, refresh_delay=600.0) as manager:
        await manager.ready()
        quicken(manager)
        yield manager


async def lap(acquire: Callable[[], Any]) -> float:
    """Return the seconds for one acquire and its release."""
    began = perf_counter()
    for _ in range(_LAP):
        async with acquire():
            pass
    return (perf_counter() - began) / _LAP


async def by_hosts(rounds: int) -> list[dict[str, Any]]:
    """Print what an acquire costs with different numbers of hosts, compared with eight."""
    print("acquire and release of a replica, hasql's own share of it")
    print(f"  {'policy':28} {'hosts':>6} {'us':>8} {'times that with 8 hosts':>26}")
    results = []
    for policy in _POLICIES:
        contexts = {hosts: many_hosts(hosts, policy) for hosts in _HOSTS}
        managers = {hosts: await context.__aenter__() for hosts, context in contexts.items()}
        times: dict[int, list[float]] = {hosts: [] for hosts in _HOSTS}
        gc.collect()
        for number in range(rounds + 1):
            for hosts in _HOSTS if number % 2 else reversed(_HOSTS):
                seconds = await lap(managers[hosts].acquire_replica)
                if number:  # the first one warms up
                    times[hosts].append(seconds)
        for context in contexts.values():
            await context.__aexit__(None, None, None)
        reference = times[_REFERENCE]
        for hosts, each in times.items():
            ratio = median(one / other for one, other in zip(each, reference, strict=True))
            of_minima = min(each) / min(reference)
            shown = f"{ratio:12.2f} {of_minima:12.2f}"
            print(f"  {policy.__name__:28} {hosts:6} {min(each) * 1e6:8.2f} {shown}", flush=True)
            results.append(
                {"policy": policy.__name__, "hosts": hosts, "us": min(each) * 1e6}
                | {"median": ratio, "of_minima": of_minima}
            )
    return results


async def failover(waiters: int) -> float:
    """Return the seconds from when there is a master again until all waiters are served."""
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, pool_factory_kwargs={"max_size": 10}) as manager:
        await manager.ready()
        quicken(manager)
        servers["a"].kill()
        while manager.master_pool_count:
            await asyncio.sleep(0.001)
        gc.collect()

        async def write() -> None:
            async with manager.acquire_master(timeout=300):
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(write()) for _ in range(waiters)]
        await asyncio.sleep(0)
        servers["b"].promote()
        while not manager.master_pool_count:
            await asyncio.sleep(0)
        began = perf_counter()
        await asyncio.gather(*tasks)
        return perf_counter() - began


async def by_waiters(rounds: int) -> list[dict[str, Any]]:
    """Print how long it takes to serve all that wait for a master, once there is one."""
    print("tasks that wait for a master, over ten connections, from when it is in routing")
    print(f"  {'waiting':>8} {'all served, ms':>16} {'us for each':>14}")
    results = []
    for waiters in _WAITERS:
        seconds = median([await failover(waiters) for _ in range(rounds)])
        print(f"  {waiters:8} {seconds * 1e3:16.2f} {seconds / waiters * 1e6:14.1f}", flush=True)
        results.append({"waiters": waiters, "seconds": seconds})
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--save", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    logging.getLogger("hasql").setLevel(logging.ERROR)  # hosts are down on purpose
    results = {
        "hosts": asyncio.run(by_hosts(options.rounds)),
        "waiters": asyncio.run(by_waiters(max(1, options.rounds // 40))),
    }
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
