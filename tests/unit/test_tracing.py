"""Tracing: what a tracer is told of acquires and probes, and that it can harm neither."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import fields
from typing import Any

import pytest

from hasql.cluster.probe import Role
from hasql.errors import NotAvailableError
from hasql.tracing import (
    AcquireBegun,
    AcquireFailed,
    AcquireRetried,
    AcquireWaited,
    ConnectionLent,
    ConnectionReturned,
    ProbeEnded,
    Tracer,
)
from testbed.fake_driver import fake_cluster, manager_of, until

pytestmark = pytest.mark.loops_in_turn


class Records(list[Any]):
    """All records that a tracer was given, in order."""

    def tracer(self) -> Tracer:
        return Tracer(**{field.name: self.append for field in fields(Tracer)})

    def of_acquires(self) -> list[Any]:
        return [record for record in self if not isinstance(record, ProbeEnded)]


async def test_an_acquire_is_told_from_begin_to_end() -> None:
    servers, records = fake_cluster("a master", "b replica"), Records()
    async with manager_of(servers) as manager:
        await manager.ready()
        manager.set_tracer(records.tracer())
        async with manager.acquire_master(timeout=3):
            await asyncio.sleep(0.02)
        with pytest.raises(KeyError):
            async with manager.acquire_replica(fallback_master=True):
                raise KeyError
        begun, lent, returned, second, _, last = records.of_acquires()
        assert begun == AcquireBegun(1, "master", 3)
        assert lent == ConnectionLent(1, servers["a"].host, Role.MASTER, lent.seconds)
        assert 0 <= lent.seconds < 1
        assert returned == ConnectionReturned(1, servers["a"].host, returned.seconds, None)
        assert 0.015 < returned.seconds < 1
        assert second.request == "replica, or master"
        assert isinstance(last, ConnectionReturned)
        assert isinstance(last.error, KeyError)


async def test_an_acquire_that_waits_tells_where_its_place_is_and_for_how_long() -> None:
    servers, records = fake_cluster("a master"), Records()
    async with manager_of(servers, pool_factory_kwargs={"max_size": 1}) as manager:
        await manager.ready()
        held = await manager.acquire_master()
        manager.set_tracer(records.tracer())
        waiting = asyncio.ensure_future(manager.acquire_master().__aenter__())
        await until(lambda: manager.metrics().waiting == 1)
        await asyncio.sleep(0.02)
        await manager.release(held)
        await manager.release(await waiting)
        # The tracer is told nothing of the lease that began before it was set.
        kinds = [type(record) for record in records.of_acquires()]
        assert kinds == [AcquireBegun, AcquireWaited, ConnectionLent, ConnectionReturned]
        waited = records.of_acquires()[1]
        assert waited.host == servers["a"].host
        assert 0.015 < waited.seconds < 1


async def test_what_fails_a_try_and_what_ends_an_acquire_is_told() -> None:
    servers, records = fake_cluster("a master"), Records()
    async with manager_of(servers, refresh_delay=30) as manager:
        await manager.ready()
        manager.set_tracer(records.tracer())
        servers["a"].kill()
        with pytest.raises(NotAvailableError) as failure:
            async with manager.acquire_master(timeout=0.2):
                pass
        told = records.of_acquires()
        retried = [record for record in told if isinstance(record, AcquireRetried)]
        assert retried
        assert {type(record.error) for record in retried} == {ConnectionRefusedError}
        assert isinstance(told[-1], AcquireFailed)
        assert told[-1].error is failure.value
        assert 0.15 < told[-1].seconds < 2


async def test_probes_are_told_with_what_they_found() -> None:
    servers, records = fake_cluster("a master", "b replica"), Records()
    async with manager_of(servers, refresh_delay=0.05) as manager:
        manager.set_tracer(records.tracer())
        await until(lambda: len(records) >= 2)
        servers["b"].kill()
        await until(lambda: any(record.error is not None for record in records))
        found = {(record.host.host, record.role) for record in records}
        assert found == {("a", Role.MASTER), ("b", Role.REPLICA), ("b", Role.UNKNOWN)}
        assert all(0 <= record.seconds < 1 for record in records)


async def test_a_tracer_that_fails_is_logged_and_harms_no_acquire(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError

    async with manager_of(fake_cluster("a master")) as manager:
        await manager.ready()
        everything = {field.name: fail for field in fields(Tracer)}
        manager.set_tracer(Tracer(**everything))
        with caplog.at_level(logging.ERROR, "hasql"):
            async with manager.acquire_master() as connection:
                await connection.run()
        assert {record.getMessage() for record in caplog.records} >= {
            "a tracer has failed on AcquireBegun",
            "a tracer has failed on ConnectionLent",
            "a tracer has failed on ConnectionReturned",
        }
        manager.set_tracer(None)
        caplog.clear()
        async with manager.acquire_master():
            pass
        assert not caplog.records


async def test_what_is_no_tracer_is_refused() -> None:
    async with manager_of(fake_cluster("a master")) as manager:
        with pytest.raises(TypeError, match=r"must be a hasql\.tracing\.Tracer, not"):
            manager.set_tracer(print)  # type: ignore[arg-type]


async def test_a_release_that_another_task_finishes_is_told_once_it_has_ended() -> None:
    servers, records = fake_cluster("a master"), Records()
    async with manager_of(servers, refresh_timeout=30) as manager:
        await manager.ready()
        manager.set_tracer(records.tracer())
        connection = await manager.acquire_master()
        servers["a"].freeze()
        release = asyncio.ensure_future(manager.release(connection))
        await asyncio.sleep(0.01)
        release.cancel()
        await asyncio.wait([release])
        assert [type(x) for x in records.of_acquires()] == [AcquireBegun, ConnectionLent]
        servers["a"].thaw()
        await until(lambda: manager.metrics().nodes[0].in_flight == 0)
        returned = records.of_acquires()[2]
        assert returned == ConnectionReturned(1, servers["a"].host, returned.seconds, None)
