"""Real web servers that are told to end under load still serve what they have accepted."""

from __future__ import annotations

import asyncio
import re
import sys
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import pytest

from testbed.scene import LOCK, held_lock, until_sessions, until_waiting
from testbed.web.apps import WebApp
from testbed.web.client import HttpClient
from testbed.web.server import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hasql.testing import LocalCluster
    from testbed.scene import Table

FASTAPI = """
import asyncio
import logging
import os
from typing import Annotated, Any

from fastapi import Depends, FastAPI

from hasql.asyncpg import PoolManager
from hasql.contrib.fastapi import Hasql

logging.basicConfig(level=logging.INFO)
db = Hasql(PoolManager(os.environ["DATABASE_URL"], acquire_timeout=30))
app = FastAPI(lifespan=db.lifespan)
db.install(app)
app.include_router(db.health)


@app.post("/visits/{number}/{lock}")
async def visit(number: int, lock: int, conn: Annotated[Any, Depends(db.master)]) -> None:
    async with conn.transaction():
        await conn.execute(f"INSERT INTO TABLE_NAME VALUES ({number})")
        await conn.execute(f"SELECT pg_advisory_xact_lock_shared({lock})")


tasks = []


@app.post("/later/{number}/{lock}")
async def later(number: int, lock: int) -> None:
    async def work() -> None:
        async with db.pool.acquire_master() as conn:
            await visit(number, lock, conn)

    tasks.append(asyncio.create_task(work()))
"""

STARLETTE = """
import os

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from hasql.contrib.fastapi import Hasql
from hasql.psycopg3 import PoolManager

db = Hasql(PoolManager(os.environ["DATABASE_URL"], acquire_timeout=30))


async def visit(request):
    async with db.pool.acquire_master() as conn:
        await conn.execute(f"INSERT INTO TABLE_NAME VALUES ({request.path_params['number']})")
        await conn.execute(
            f"SELECT pg_advisory_xact_lock_shared({request.path_params['lock']})"
        )
    return PlainTextResponse("")


async def ready(request):
    return PlainTextResponse("", 200 if db.pool.master_pool_count else 503)


app = Starlette(
    routes=[
        Route("/visits/{number:int}/{lock:int}", visit, methods=["POST"]),
        Route("/health/ready", ready),
    ],
    lifespan=db.lifespan,
)
db.install(app)
"""

FLASK = """
import logging
import os
from threading import Thread

from flask import Flask

from hasql.contrib.flask import Hasql

logging.basicConfig(level=logging.INFO)
db = Hasql()
app = Flask(__name__)
app.config["HASQL_DSN"] = os.environ["DATABASE_URL"]
app.config["HASQL_TRANSACTIONS"] = "request"
app.config["HASQL_OPTIONS"] = {"acquire_timeout": 30}
db.init_app(app)
app.register_blueprint(db.health, url_prefix="/health")


@app.post("/visits/<int:number>/<int:lock>")
def visit(number, lock):
    conn = db.connection()
    conn.execute(f"INSERT INTO TABLE_NAME VALUES ({number})")
    conn.execute(f"SELECT pg_advisory_xact_lock_shared({lock})")
    return ""


@app.post("/later/<int:number>/<int:lock>")
def later(number, lock):
    def work(manager):
        with manager.acquire_master() as conn:
            conn.execute(f"INSERT INTO TABLE_NAME VALUES ({number})")
            conn.execute(f"SELECT pg_advisory_xact_lock_shared({lock})")

    Thread(target=work, args=(db.manager(),), daemon=True).start()
    return ""
"""

DJANGO = """
import logging
import os
from threading import Thread

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connection, transaction
from django.http import HttpResponse
from django.urls import path

from psycopg.conninfo import conninfo_to_dict

logging.getLogger("hasql").addHandler(logging.StreamHandler())
logging.getLogger("hasql").setLevel(logging.INFO)
url = conninfo_to_dict(os.environ["DATABASE_URL"])
settings.configure(
    ROOT_URLCONF=__name__,
    DATABASES={
        "default": {
            "ENGINE": "hasql.contrib.django",
            "HOST": url["host"],
            "PORT": url["port"],
            "NAME": url["dbname"],
            "USER": url["user"],
            "PASSWORD": url["password"],
            "CONN_MAX_AGE": MAX_AGE,
            "OPTIONS": {
                "application_name": url["application_name"],
                "hasql": {"acquire_timeout": 30},
            },
        }
    },
    ALLOWED_HOSTS=["127.0.0.1", "test"],
    SECRET_KEY="of a test",
)


def visit(request, number, lock):
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO TABLE_NAME VALUES ({number})")
        cursor.execute(f"SELECT pg_advisory_xact_lock_shared({lock})")
    return HttpResponse("")


def later(request, number, lock):
    Thread(target=visit, args=(request, number, lock), daemon=True).start()
    return HttpResponse("")


def ready(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("")


urlpatterns = [
    path("visits/<int:number>/<int:lock>", visit),
    path("later/<int:number>/<int:lock>", later),
    path("health/ready", ready),
]
app = get_asgi_application() if "uvicorn" in __import__("sys").argv[0] else get_wsgi_application()
"""


@dataclass(frozen=True)
class Served:
    """An application under its server: the words to run after ``python -m``."""

    program: str
    words: str


_GUNICORN = (
    "gunicorn --no-control-socket --keep-alive 1 --pythonpath {directory} "
    "--bind 127.0.0.1:{{port}} "
)
_UVICORN = "uvicorn --app-dir {directory} --host 127.0.0.1 --port {{port}} tested_app:app"
_DJANGO = DJANGO.replace("MAX_AGE", "0")

SERVED = {
    "fastapi-uvicorn": Served(FASTAPI, _UVICORN),
    "fastapi-gunicorn": Served(
        FASTAPI, _GUNICORN + "--workers 2 -k uvicorn.workers.UvicornWorker tested_app:app"
    ),
    "starlette-uvicorn": Served(STARLETTE, _UVICORN),
    "flask-threads": Served(FLASK, _GUNICORN + "--workers 2 --threads 8 tested_app:app"),
    "flask-gevent": Served(FLASK, _GUNICORN + "--workers 2 -k gevent tested_app:app"),
    "django-threads": Served(_DJANGO, _GUNICORN + "--workers 2 --threads 8 tested_app:app"),
    "django-persistent": Served(
        DJANGO.replace("MAX_AGE", "None"), _GUNICORN + "--workers 2 --threads 8 tested_app:app"
    ),
    "django-gevent": Served(_DJANGO, _GUNICORN + "--workers 2 -k gevent tested_app:app"),
    "django-uvicorn": Served(_DJANGO, _UVICORN),
}


@pytest.fixture
def anyio_backend() -> object:
    """Ask from one event loop: the application runs in processes of its own."""
    return "asyncio", {"use_uvloop": False}


class Visitors:
    """Clients that send requests until the server accepts no more."""

    def __init__(self, port: int, numbers: Iterator[int]) -> None:
        self._port = port
        self._numbers = numbers
        self.acknowledged: set[int] = set()
        self.failures: list[tuple[int, bytes]] = []
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(4)]

    async def _ask(self) -> None:
        client = HttpClient(self._port)
        try:
            while True:
                number = next(self._numbers)
                status, body = await client.request("POST", f"/visits/{number}/1")
                if status == 200:
                    self.acknowledged.add(number)
                else:
                    self.failures.append((status, body))
        except OSError:
            pass  # refused, or closed before it was asked
        finally:
            client.close()

    async def end(self) -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*self._tasks)

    async def abort(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.mark.parametrize("served", SERVED.values(), ids=SERVED.keys())
async def test_what_a_server_has_accepted_when_it_is_told_to_end_commits_and_is_answered(
    served: Served, pg_cluster: LocalCluster, application: str, table: Table, tmp_path: Path
) -> None:
    (tmp_path / "tested_app.py").write_text(served.program.replace("TABLE_NAME", table.name))
    words = served.words.format(directory=tmp_path).split()
    app = WebApp("tested", (sys.executable, "-m", *words))
    dsn = f"{pg_cluster.dsn}?application_name={application}"
    async with WebServer(app, dsn) as server, held_lock(pg_cluster.master) as let_go:
        clients = [HttpClient(server.port) for _ in range(4)]
        slow = [
            asyncio.create_task(client.request("POST", f"/visits/{number}/{LOCK}"))
            for number, client in enumerate(clients)
        ]
        visitors = Visitors(server.port, count(100))
        try:
            await until_waiting(pg_cluster.master, application, len(slow))
            stopping = asyncio.create_task(server.stop())
            await _until_told(server)
            await let_go()
            await stopping
            await visitors.end()
        finally:
            await visitors.abort()
            output = server.output
        answers = await asyncio.gather(*slow)
        for client in clients:
            client.close()
    assert [status for status, _ in answers] == [200] * 4, output
    assert visitors.failures == [], output
    assert visitors.acknowledged
    rows = set(map(int, (await pg_cluster.master.sql(table.rows)).split()))
    assert {0, 1, 2, 3} | visitors.acknowledged <= rows
    assert server.closing is not None
    assert server.closing < 15
    assert "Traceback" not in output, output
    assert "were not given back in time" not in output, output
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)


@pytest.mark.parametrize(
    "name",
    ["fastapi-uvicorn", "flask-threads", "django-persistent"],
)
async def test_what_goes_on_behind_the_requests_commits_before_the_worker_ends(
    name: str, pg_cluster: LocalCluster, application: str, table: Table, tmp_path: Path
) -> None:
    served = SERVED[name]
    (tmp_path / "tested_app.py").write_text(served.program.replace("TABLE_NAME", table.name))
    words = served.words.format(directory=tmp_path).split()
    app = WebApp("tested", (sys.executable, "-m", *words))
    dsn = f"{pg_cluster.dsn}?application_name={application}"
    async with WebServer(app, dsn) as server, held_lock(pg_cluster.master) as let_go:
        client = HttpClient(server.port)
        for number in range(2):
            status, _ = await client.request("POST", f"/later/{number}/{LOCK}")
            assert status == 200, server.output
        client.close()
        await until_waiting(pg_cluster.master, application, 2)
        stopping = asyncio.create_task(server.stop())
        async with asyncio.timeout(20):
            while _draining(server.output) < 2:
                await asyncio.sleep(0.005)
        await let_go()
        await stopping
        assert "not given back" not in server.output, server.output
    assert set((await pg_cluster.master.sql(table.rows)).split()) == {"0", "1"}
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)


def _draining(output: str) -> int:
    """Count the connections that the workers wait for as they end."""
    of_django = re.findall(r"draining: giving (\d+) connections? of Django", output)
    return output.count("(master) out for") + sum(map(int, of_django))


async def _until_told(server: WebServer) -> None:
    """Wait until a server says that it was told to end."""
    async with asyncio.timeout(20):
        while not any(words in server.output for words in ("Handling signal: term", "Shutting")):
            await asyncio.sleep(0.005)
