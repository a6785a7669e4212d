"""Hosts that are Unix sockets, each in its own directory, as the proxy of Cloud SQL makes them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import Kit

pytestmark = pytest.mark.usefixtures("nothing_unheard")


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def socket_of(node: LocalNode, directory: Path) -> AsyncIterator[None]:
    """Make a socket in a directory that leads to a server, as the proxy does."""
    sessions: set[asyncio.Task[None]] = set()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(node.host, node.port)
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sessions.add(asyncio.create_task(lead(reader, writer)))

    directory.mkdir()
    server = await asyncio.start_unix_server(begin, directory / ".s.PGSQL.5432")
    async with server:
        yield
    if sessions:  # the manager and its connections are closed
        _, left = await asyncio.wait(sessions, timeout=10)
        assert not left


@pytest.mark.parametrize("form", ["url", "keywords"])
async def test_a_master_and_a_replica_are_found_at_their_sockets(
    kit: Kit, pg_cluster: LocalCluster, form: str
) -> None:
    master, replica = pg_cluster.master, pg_cluster.replicas[0]
    with TemporaryDirectory(dir="/tmp") as root:  # the path of a socket has to be short
        main, second = Path(root) / "shop:europe-west1:main", Path(root) / "shop:europe-west1:r1"
        async with socket_of(master, main), socket_of(replica, second):
            login = pg_cluster.dsn.removeprefix("postgresql://").partition("@")[0]
            user, _, password = login.partition(":")
            dsn = (
                f"postgresql://{login}@/app?host={second},{main}"
                if form == "url"
                else f"host={second},{main} user={user} password={password} dbname=app"
            )
            async with kit.manager(dsn, acquire_timeout=10) as manager:
                await manager.ready(1, 1)
                async with manager.acquire_master() as connection:
                    assert await kit.value(connection, "SELECT inet_server_port()") == master.port
                async with manager.acquire_replica() as connection:
                    assert await kit.value(connection, "SELECT inet_server_port()") == replica.port
