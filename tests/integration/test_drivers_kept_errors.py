"""A host's last error, kept for metrics and messages, keeps no connection open.

An error's traceback refers to all that the login had in hand. A login that was given up would
thereby keep its socket until the next error, and the server may have let it in meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from hasql.errors import NotAvailableError, PoolManagerClosedError
from testbed.kits import KITS, THREAD_KITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.testing import LocalCluster
    from testbed.kits.base import LoadKit

_KITS: list[LoadKit] = [*KITS, *THREAD_KITS]


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop; the other files run on each."""
    return "asyncio", {"use_uvloop": False}


@contextmanager
def without_collections_of_garbage() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


_TIMEOUT = 4.0
"""Seconds that each login is given."""

_SOON = 2.5
"""A login that was given up ends within so many seconds: with some drivers it goes on for one."""


async def test_a_login_that_was_given_up_is_not_kept_open_by_its_error() -> None:
    with without_collections_of_garbage():
        late = await asyncio.gather(*map(_late_end, _KITS))
    assert {kit.name: x for kit, x in zip(_KITS, late, strict=True) if x > _SOON} == {}


async def _late_end(kit: LoadKit) -> float:
    """Return how many seconds after the beginning of the second login the first one has ended.

    The first login is given up before the second begins, and its error is kept until the second
    fails as well.
    """
    loop = asyncio.get_running_loop()
    came: list[float] = []
    gone: list[float] = []
    both = asyncio.Event()

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(loop.time())
        with suppress(ConnectionError):  # a reset counts as an end, too
            await reader.read()
        gone.append(loop.time())
        both.set()
        writer.close()

    async with await asyncio.start_server(be_silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        manager: Any = kit.manager(
            f"postgresql://app:app@127.0.0.1:{port}/app",
            refresh_timeout=_TIMEOUT,
            pool_factory_kwargs=kit.sizes(1, 1),
        )
        try:
            with pytest.raises(NotAvailableError):
                await manager.ready(timeout=0.1)
            async with asyncio.timeout(30):
                await both.wait()
                while len(came) < 2:
                    await asyncio.sleep(0.01)
            return gone[0] - came[1]
        finally:
            await manager.close()
            async with asyncio.timeout(30):
                while len(gone) < len(came):
                    gc.collect()  # a driver may have made reference cycles
                    await asyncio.sleep(0.1)


@pytest.mark.parametrize("passing", [0, 1, 2], ids=["the monitor's", "the pool's", "a look's"])
async def test_a_login_under_way_ends_with_its_manager(
    passing: int, pg_cluster: LocalCluster
) -> None:
    """Its end must not wait for the garbage collector, though its cancelled task keeps its frames.

    The server may have let it in by then, as a session that nobody uses.
    """
    with without_collections_of_garbage():
        late = await asyncio.gather(*(_late_close(kit, pg_cluster, passing) for kit in _KITS))
    assert {kit.name: x for kit, x in zip(_KITS, late, strict=True) if x > _SOON} == {}


async def _late_close(kit: LoadKit, cluster: LocalCluster, passing: int) -> float:
    """Return how many seconds after the manager's end the last login has ended.

    `passing` connections before it are passed on to a server.
    """
    loop = asyncio.get_running_loop()
    came = 0
    waiting, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        if came <= passing:
            await passed_on(reader, writer)
            return
        await reader.read(1)
        waiting.set()
        with suppress(ConnectionError):  # a reset counts as an end, too
            while await reader.read(65536):
                pass
        gone.set()
        writer.close()

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, there = await asyncio.open_connection(cluster.master.host, cluster.master.port)
        await asyncio.gather(copy(reader, there), copy(back, writer))

    async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                to.write(data)
        to.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        dsn = cluster.master.dsn.replace(f":{cluster.master.port}/", f":{port}/")
        manager: Any = kit.manager(
            dsn,
            refresh_timeout=60,
            acquire_timeout=60,
            # With a minimum of 0 only a look logs in.
            pool_factory_kwargs=kit.sizes(1 if passing < 2 else 0, 1),
        )
        workers = kit.workers()
        try:
            use = _refused(manager) if passing < 2 else _lost(kit, manager)
            workers.start("acquire", use)
            async with asyncio.timeout(30):
                await waiting.wait()
            await manager.close(0.5)
            began = loop.time()
            await asyncio.wait({asyncio.ensure_future(gone.wait())}, timeout=2 * _SOON)
            return loop.time() - began
        finally:
            await manager.close()
            await workers.end()
            await workers.wait()


async def _refused(manager: Any) -> None:
    with pytest.raises(PoolManagerClosedError):
        async with manager.acquire_master():
            pass


async def _lost(kit: LoadKit, manager: Any) -> None:
    """Lose a lease, after which hasql looks at the host over a new connection."""
    lease = await manager.acquire_master()
    with pytest.raises(Exception):  # noqa: B017, PT011  # each driver has its own
        await kit.value(lease, "SELECT pg_terminate_backend(pg_backend_pid())")
    await manager.release(lease)
