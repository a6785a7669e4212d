"""Listeners are told of each change once, in order, and not within an acquire."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion
from hasql.events import (
    Event,
    HostAdmitted,
    HostDown,
    HostExcluded,
    HostFenced,
    HostUp,
    RoleChanged,
)
from testbed.fake_driver import fake_cluster, manager_of

if TYPE_CHECKING:
    from collections.abc import Callable


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def test_each_change_is_told_once_and_in_order() -> None:
    servers = fake_cluster("a master", "b replica")
    a, b = servers["a"].host, servers["b"].host
    heard: list[Event] = []
    manager = manager_of(servers, refresh_delay=0.02)
    manager.add_listener(heard.append)
    async with manager:
        await manager.ready()
        await until(lambda: len(heard) == 2)
        assert sorted(heard, key=str) == [HostUp(a, Role.MASTER), HostUp(b, Role.REPLICA)]
        heard.clear()

        servers["a"].kill()
        servers["b"].promote()
        await until(lambda: len(heard) == 3)
        down = next(event for event in heard if isinstance(event, HostDown))
        assert down.host == a
        assert isinstance(down.error, ConnectionError)
        assert RoleChanged(b, Role.REPLICA, Role.MASTER) in heard
        assert HostFenced(a, Exclusion.FENCED) in heard
        heard.clear()

        servers["a"].restart()
        await until(lambda: len(heard) == 1)
        assert heard == [HostUp(a, Role.MASTER)], "it stays fenced, which was told"
        probes = len(servers["a"].probes)
        await until(lambda: len(servers["a"].probes) > probes + 5)
        assert len(heard) == 1, "probes that find nothing new are not told of"
        heard.clear()

        servers["a"].restart(master=False)
        await until(lambda: HostAdmitted(a, Exclusion.FENCED) in heard)


async def test_what_is_kept_out_for_what_it_is_was_not_fenced() -> None:
    servers = fake_cluster("a master", "b replica", "c replica")
    a, c = servers["a"], servers["c"]
    c.started_at = a.started_at
    servers["b"].system_id = 8
    heard: list[Event] = []
    manager = manager_of(servers, refresh_delay=0.02)
    manager.add_listener(heard.append)

    def exclusions() -> list[Event]:
        return [event for event in heard if isinstance(event, HostExcluded | HostAdmitted)]

    async with manager:
        await manager.ready()
        await until(lambda: len(exclusions()) == 2)
        assert set(exclusions()) == {
            HostExcluded(c.host, Exclusion.ALIAS),
            HostExcluded(servers["b"].host, Exclusion.FOREIGN),
        }
        assert not any(isinstance(event, HostFenced) for event in heard)
        heard.clear()

        c.restart()
        await until(lambda: exclusions() == [HostAdmitted(c.host, Exclusion.ALIAS)])


async def test_a_listener_that_fails_harms_nobody_and_one_removed_hears_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    servers = fake_cluster("a master")
    heard: list[Event] = []
    deaf: list[Event] = []

    def fail(event: Event) -> None:
        raise LookupError(event)

    manager = manager_of(servers)
    for listener in (fail, deaf.append, heard.append):
        manager.add_listener(listener)
    manager.remove_listener(deaf.append)
    with caplog.at_level(logging.ERROR, "hasql"):
        async with manager:
            await manager.ready()
            await until(lambda: len(heard) == 1)
    assert "a listener has failed on HostUp" in caplog.text
    assert not deaf
    with pytest.raises(ValueError, match="not in list"):
        manager.remove_listener(deaf.append)


async def test_a_listener_is_a_plain_function() -> None:
    async def wait(event: Event) -> None:
        raise AssertionError(event)

    manager = manager_of(fake_cluster("a master"))
    for wrong in (wait, None, "listener"):
        with pytest.raises(TypeError, match="plain function"):
            manager.add_listener(wrong)  # type: ignore[arg-type]
