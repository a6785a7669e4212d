"""The example applications, under their real servers, serve their clients through a failover.

`make web` runs the same for longer, and measures.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import TYPE_CHECKING

import pytest

from testbed.scene import sessions, until_sessions
from testbed.web.apps import WEB_APPS, WebApp
from testbed.web.client import HttpClient
from testbed.web.failover import play_failover
from testbed.web.server import WebServer

if TYPE_CHECKING:
    from pathlib import Path

    from hasql.testing import LocalCluster

_LATE = 3.0
"""Seconds by which a busy machine may exceed the limits that a machine at rest keeps."""


@pytest.fixture
def anyio_backend() -> object:
    """Ask from one event loop: the application runs in processes of its own."""
    return "asyncio", {"use_uvloop": False}


@pytest.mark.parametrize("app", WEB_APPS.values(), ids=WEB_APPS.keys())
async def test_only_what_was_in_flight_fails_and_the_first_write_follows_the_promotion(
    app: WebApp, pg_cluster: LocalCluster
) -> None:
    outcome = await play_failover(app, pg_cluster, felt=_LATE)
    assert outcome.problems == []
    assert outcome.writes >= app.writers
    assert outcome.added < 0.06 + _LATE


SLOW = """
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse

from hasql.asyncpg import PoolManager
from hasql.contrib.fastapi import Access, Hasql

db = Hasql(PoolManager(os.environ["DATABASE_URL"], acquire_timeout=15))
app = FastAPI(lifespan=db.lifespan)
db.install(app)
app.include_router(db.health)


@app.get("/lent")
async def lent() -> int:
    return sum(node.in_flight for node in db.pool.metrics().nodes)


@app.get("/slow")
async def slow(conn: Annotated[Any, Depends(db.master)]) -> None:
    await conn.execute("SELECT pg_sleep(1)")


@app.get("/stream")
async def stream(access: Annotated[Access, Depends(db.access)]) -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        async with access.replica() as conn:
            while True:
                await conn.execute("SELECT pg_sleep(0.01)")
                yield "part " * 1000

    return StreamingResponse(parts())
"""


async def test_clients_that_go_away_and_a_server_that_ends_leave_nothing_behind(
    pg_cluster: LocalCluster, application: str, tmp_path: Path
) -> None:
    (tmp_path / "slow_app.py").write_text(SLOW)
    words = f"-m uvicorn --app-dir {tmp_path} slow_app:app --host 127.0.0.1 --port {{port}}"
    app = WebApp("slow", (sys.executable, *words.split()))
    async with WebServer(app, f"{pg_cluster.dsn}?application_name={application}") as server:
        for path in ["/slow", "/stream"] * 10:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            if path == "/stream":
                await reader.readuntil(b"part")
            writer.close()
        client = HttpClient(server.port)
        async with asyncio.timeout(20):
            while (await client.request("GET", "/lent"))[1] != b"0":
                await asyncio.sleep(0.01)
        assert await sessions(pg_cluster.master, application) > 0
        # The requests that it still serves when it is told to end succeed, too.
        clients = [HttpClient(server.port) for _ in range(5)]
        last = [asyncio.create_task(each.request("GET", "/slow")) for each in clients]
        async with asyncio.timeout(20):
            while (await client.request("GET", "/lent"))[1] != b"5":
                await asyncio.sleep(0.01)
        client.close()
        await server.stop()
        assert [status for status, _ in await asyncio.gather(*last)] == [200] * 5
        for each in clients:
            each.close()
        assert not re.search("Traceback|never|unclosed", server.output), server.output
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)
