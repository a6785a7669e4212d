"""What is kept of a host's last error, for metrics and messages, keeps no connection open.

An error's traceback leads to what the login had in hand: a login that was given up would have its
socket until the next error, and the server may have let it in meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from hasql.errors import NotAvailableError
from testbed.kits import KITS, THREAD_KITS

if TYPE_CHECKING:
    from collections.abc import Iterator

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
"""Seconds in which one ends that was given up: some drivers' goes on for one."""


async def test_a_login_that_was_given_up_is_not_kept_open_by_its_error() -> None:
    with without_collections_of_garbage():
        late = await asyncio.gather(*map(_late_end, _KITS))
    assert {kit.name: x for kit, x in zip(_KITS, late, strict=True) if x > _SOON} == {}


async def _late_end(kit: LoadKit) -> float:
    """Return how many seconds after the second login the first one has ended.

    The first is given up before there is a second, and its error kept until that fails as well.
    """
    loop = asyncio.get_running_loop()
    came: list[float] = []
    gone: list[float] = []
    both = asyncio.Event()

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(loop.time())
        with suppress(ConnectionError):  # a reset will do
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
                    gc.collect()  # a driver may have made circles of its own
                    await asyncio.sleep(0.1)
