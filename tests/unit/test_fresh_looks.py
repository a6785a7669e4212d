"""Looks at a host over a fresh connection, beside the probes over the reserved connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from simulation.virtual_time import VirtualClock, run
from testbed.fake_driver import fake_cluster, manager_of, until

if TYPE_CHECKING:
    from testbed.fake_driver import FakeManager, FakeServer

#: Seconds after which the burst of probes that a broken lease causes is over.
_BURST = 5.0


async def begin_look(manager: FakeManager, server: FakeServer) -> asyncio.Event:
    """Break a lease of a replica, so that a look begins; return the event that lets it log in."""
    gate = asyncio.Event()
    with pytest.raises(ConnectionResetError):
        async with manager.acquire_replica() as connection:
            assert connection.server is server
            server.before_login, logins = gate.wait, server.logins
            connection.lose()
            await connection.run()
    await until(lambda: server.logins > logins)
    return gate


def test_6_a_promotion_that_a_look_tells_of_is_known_at_once_whenever_the_look_has_begun() -> None:
    """A probe that began later than the look was answered before the promotion."""
    clock = VirtualClock()
    servers = fake_cluster("one master", "two replica")
    two = servers["two"]
    sizes = {"min_size": 0, "max_size": 2}
    manager = manager_of(
        servers, clock=clock, refresh_delay=60.0, refresh_timeout=30.0, pool_factory_kwargs=sizes
    )

    async def play() -> None:
        async with manager:
            await manager.ready(1, 1)
            gate = await begin_look(manager, two)
            probes = len(two.probes)
            await asyncio.sleep(_BURST)
            assert len(two.probes) > probes
            two.promote()
            gate.set()
            await asyncio.sleep(0.1)
            async with manager.acquire_master(timeout=1) as connection:
                assert connection.server is two

    run(play(), clock)
