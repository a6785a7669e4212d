"""The event loop that leads a name to an address, for drivers that are given a loop."""

from __future__ import annotations

import asyncio
import gc
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from hasql.driver.addressed_loop import AddressedLoop
from testbed.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NAME = "db.example.invalid"  # no resolver knows it, so looking it up fails


@asynccontextmanager
async def listening(address: str = "127.0.0.2", port: int = 0) -> AsyncIterator[int]:
    async with await asyncio.start_server(
        lambda _, writer: writer.close(), address, port
    ) as server:
        yield server.sockets[0].getsockname()[1]


async def connect(loop: AddressedLoop, host: str, port: int) -> str:
    """Connect, and return the address of the peer."""
    transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
    try:
        return str(transport.get_extra_info("peername")[0])
    finally:
        transport.close()


async def test_a_name_leads_to_the_address_and_so_does_a_later_connection() -> None:
    async with listening() as port:
        loop = AddressedLoop(asyncio.get_running_loop(), NAME, "127.0.0.2")
        assert loop.address is None
        assert await connect(loop, NAME, port) == "127.0.0.2"
        assert loop.address == "127.0.0.2"
        assert await connect(loop, NAME, port) == "127.0.0.2"


async def test_where_a_name_led_by_itself_is_known_and_kept() -> None:
    async with listening("127.0.0.1") as port:
        loop = AddressedLoop(asyncio.get_running_loop(), "localhost")
        assert await connect(loop, "localhost", port) == "127.0.0.1"
        assert loop.address == "127.0.0.1"


async def test_another_name_leads_where_it_does() -> None:
    async with listening() as port:
        loop = AddressedLoop(asyncio.get_running_loop(), NAME, "127.0.0.3")
        assert await connect(loop, "127.0.0.2", port) == "127.0.0.2"
        assert loop.address is None  # an application's own `connect` may use a tunnel
        with pytest.raises(ConnectionRefusedError):  # the name is led to 127.0.0.3, not looked up
            await connect(loop, NAME, port)


async def test_tls_from_the_first_byte_checks_the_name(tmp_path: Path) -> None:
    """asyncpg does this with ``sslnegotiation=direct``."""
    authority = Authority(tmp_path / "authority")
    trusting = ssl.create_default_context(cafile=authority.certificate)
    async with await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.2", ssl=authority.server(f"DNS:{NAME}")
    ) as server:
        port = server.sockets[0].getsockname()[1]
        loop = AddressedLoop(asyncio.get_running_loop(), NAME, "127.0.0.2")
        transport, _ = await loop.create_connection(asyncio.Protocol, NAME, port, ssl=trusting)
        transport.close()
        other = "other.example.invalid"
        loop = AddressedLoop(asyncio.get_running_loop(), other, "127.0.0.2")
        with pytest.raises(ssl.SSLCertVerificationError, match=f"not valid for '{other}'"):
            await loop.create_connection(asyncio.Protocol, other, port, ssl=trusting)


async def test_an_answer_that_nobody_waits_for_any_more_leaves_no_message() -> None:
    """A cancel request of asyncpg's that is given up leaves such a future, under the same name."""

    class Asking(asyncio.Protocol):
        def __init__(self) -> None:
            self.on_data = asyncio.get_running_loop().create_future()

        def connection_lost(self, _: Exception | None) -> None:
            self.on_data.set_exception(ConnectionError("lost before it has answered"))

    said: list[object] = []
    running = asyncio.get_running_loop()
    running.set_exception_handler(lambda _, context: said.append(context))
    async with listening() as port:
        loop = AddressedLoop(running, NAME, "127.0.0.2")
        transport, protocol = await loop.create_connection(Asking, NAME, port)
        transport.abort()
        await asyncio.wait([protocol.on_data])
        del transport, protocol, loop
        await asyncio.sleep(0)
        gc.collect()
    assert said == []


async def test_all_else_is_the_loops_own() -> None:
    running = asyncio.get_running_loop()
    loop = AddressedLoop(running, NAME)
    assert loop.create_future().get_loop() is running
    done = running.create_future()
    loop.call_later(0, done.set_result, None)
    await done
