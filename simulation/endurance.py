"""Endurance: rounds of many failovers with one manager, and what it holds after each round."""

from __future__ import annotations

import asyncio
from random import Random

from simulation.applications import Task, Writer
from simulation.checks import check_closed, check_quiet, weight
from simulation.cluster import Cluster
from simulation.driver import SimulatedDriver, SimulatedManager
from simulation.knowledge import Knowledge
from simulation.record import Record
from simulation.virtual_time import VirtualClock, run

__all__ = ("endure",)


def endure(rounds: int, failovers: int) -> list[int]:
    """Play rounds of `failovers` failovers; return how much the manager held after each round.

    Raises AssertionError if anything was wrong.
    """
    record = Record(VirtualClock())
    weights = run(_endure(record, rounds, failovers), record.clock)
    assert not record.violations, "\n".join([*record.violations, *record.lines[-20:]])
    return weights


async def _endure(record: Record, rounds: int, failovers: int) -> list[int]:
    asyncio.get_running_loop().set_exception_handler(record.loop_failed)
    before = asyncio.all_tasks()
    cluster = Cluster("abc", record, Random("cluster"))
    driver = SimulatedDriver(cluster.servers, Knowledge("manager", record), Random("driver"))
    # Remember only a few round trips for each host: with many, memory would grow for a while.
    manager = SimulatedManager(
        driver,
        None,
        lambda: record.clock.now + 1e5,
        Random("manager"),
        stopwatch_window_size=8,
        pool_factory_kwargs={"min_size": 0, "max_size": 4},
    )
    weights = []
    for number in range(rounds):
        await _fail_over(record, cluster, manager, number, failovers)
        check_quiet(manager, record, cluster)
        weights.append(weight(manager))
    await manager.close()
    await asyncio.sleep(1.0)
    check_closed(record, cluster, before)
    return weights


async def _fail_over(
    record: Record, cluster: Cluster, manager: SimulatedManager, number: int, failovers: int
) -> None:
    """Make the master fail again and again while it is in use, and then wait for rest."""
    crowd: list[asyncio.Task[None]] = []
    chance = [Random(f"{number} {each}") for each in range(4)]
    tasks = [
        (Writer if each == 0 else Task)(
            f"task {each}", manager, cluster, record, chance[each], roomy=False, crowd=crowd
        )
        for each in range(4)
    ]
    running = [asyncio.get_running_loop().create_task(task.run()) for task in tasks]
    for each in range(failovers):
        await asyncio.sleep(0.5)
        if each % 3 == 2:
            cluster.master.freeze()
        elif each % 3 == 1:
            cluster.master.kill()
        await asyncio.sleep(0.2)
        cluster.promote()
        await asyncio.sleep(0.3)
        await cluster.mend()
    for task in tasks:
        task.stopped = True
    await asyncio.wait(running)
    # Wait longer than observations of a host count as evidence, and longer than the quiet time
    # after bursts of probes that learned nothing.
    await asyncio.sleep(70.0)
