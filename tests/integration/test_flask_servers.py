"""Flask under gunicorn: work begun before the fork, requests that are broken off, and streams.

`test_web.py` puts the example application through a failover, under each kind of worker.
"""

from __future__ import annotations

import asyncio
import json
import sys
from http.client import HTTPConnection, HTTPResponse
from typing import TYPE_CHECKING, Any

import pytest

from testbed.scene import until_sessions
from testbed.web.apps import WebApp
from testbed.web.client import HttpClient
from testbed.web.server import WebServer

if TYPE_CHECKING:
    from pathlib import Path

    from hasql.testing import LocalCluster

APP = """
import os

from flask import Flask, Response

from hasql import NotAvailableError
from hasql.contrib.flask import Hasql

db = Hasql()
app = Flask(__name__)
app.config["HASQL_DSN"] = os.environ["DATABASE_URL"]
app.config["HASQL_OPTIONS"] = {"pool_factory_kwargs": {"min_size": 0, "max_size": 2}}
db.init_app(app)
app.register_blueprint(db.health, url_prefix="/health")


def ask():
    return db.connection().execute("SELECT pg_backend_pid()").fetchone()[0]


@app.get("/pids")
def pids():
    return {"worker": os.getpid(), "server": ask(), "before": BEFORE}


@app.get("/in-flight")
def in_flight():
    return {"in_flight": sum(node.in_flight for node in db.stats()["default"].nodes)}


@app.get("/slow")
def slow():
    import gevent

    with gevent.Timeout(0.1):
        db.connection().execute("SELECT pg_sleep(100)")


@app.get("/stream")
def stream():
    def lines():
        raise NotAvailableError("no host")
        yield

    return Response(lines(), mimetype="text/plain")


BEFORE = None
"""
STARTED = """
with app.app_context():
    BEFORE = ask()
"""


@pytest.fixture
def anyio_backend() -> object:
    """Ask from one event loop: the application runs in processes of its own."""
    return "asyncio", {"use_uvloop": False}


async def ask(client: HttpClient, path: str) -> tuple[int, Any]:
    status, body = await client.request("GET", path)
    return status, json.loads(body) if status == 200 else body


def under_gunicorn(directory: Path, program: str, options: str) -> WebApp:
    (directory / "tested_app.py").write_text(program)
    words = f"-m gunicorn --no-control-socket --pythonpath {directory} {options} tested_app:app"
    return WebApp("tested", (sys.executable, *words.split(), "--bind", "127.0.0.1:{port}"))


async def test_what_was_started_before_the_fork_starts_afresh_in_each_worker(
    pg_cluster: LocalCluster, application: str, tmp_path: Path
) -> None:
    app = under_gunicorn(tmp_path, APP + STARTED, "--workers 2 --threads 2 --preload")
    seen: dict[int, set[int]] = {}
    before = None
    async with WebServer(app, f"{pg_cluster.dsn}?application_name={application}") as server:
        async with asyncio.timeout(20):
            while len(seen) < 2:  # the kernel chooses the worker for each connection
                client = HttpClient(server.port)
                status, answer = await ask(client, "/pids")
                client.close()
                assert status == 200
                seen.setdefault(answer["worker"], set()).add(answer["server"])
                before = answer["before"]
        one, other = seen.values()
        assert not one & other
        assert before not in one | other
        await server.stop()
        assert "Traceback" not in server.output, server.output
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)


async def test_requests_that_gevent_breaks_off_cost_no_place(
    pg_cluster: LocalCluster, application: str, tmp_path: Path
) -> None:
    app = under_gunicorn(tmp_path, APP, "--worker-class gevent")
    async with WebServer(app, f"{pg_cluster.dsn}?application_name={application}") as server:
        clients = [HttpClient(server.port) for _ in range(4)]
        await asyncio.gather(*(ask(each, "/slow") for each in clients), return_exceptions=True)
        client = HttpClient(server.port)
        async with asyncio.timeout(20):
            while (await ask(client, "/in-flight"))[1] != {"in_flight": 0}:
                await asyncio.sleep(0.01)
        assert (await ask(client, "/pids"))[0] == 200
        for each in (client, *clients):
            each.close()
        await server.stop()
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)


@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
async def test_a_stream_that_finds_no_host_is_a_503(
    pg_cluster: LocalCluster, tmp_path: Path, kind: str
) -> None:
    app = under_gunicorn(tmp_path, APP, f"--worker-class {kind}")

    def answer(port: int) -> HTTPResponse:
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", "/stream")
            response = connection.getresponse()
            assert response.read() == b""
        finally:
            connection.close()
        return response

    async with WebServer(app, str(pg_cluster.dsn)) as server:
        response = await asyncio.to_thread(answer, server.port)
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        await server.stop()
        assert "Traceback" not in server.output, server.output
