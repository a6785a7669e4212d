"""Celery's prefork workers with hasql.contrib.django: children never use a parent's connection."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from testbed.scene import empty_database, fail_over, until_sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hasql.testing import LocalCluster

PROJECT = Path(__file__).parents[2] / "examples" / "django_project"

#: The project's settings, with messages in files. Connections are kept for ever.
SETTINGS = """
import os
from pathlib import Path
from project.settings import *

PLACE = Path(os.environ["PLACE"])
for each in DATABASES.values():
    each["CONN_MAX_AGE"] = None
CELERY_BROKER_URL = "filesystem://"
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "data_folder_in": str(PLACE / "messages"),
    "data_folder_out": str(PLACE / "messages"),
    "control_folder": str(PLACE / "control"),
    "polling_interval": 0.05,
}
CELERY_RESULT_BACKEND = (PLACE / "results").as_uri()
"""

#: The project's application. A thread of its parent process uses the database all the time.
WORKER = """
import os, threading, time
from contextlib import suppress
from celery.signals import worker_init
from django.db import OperationalError, connections
from project.celery_app import app

def session(alias):
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]

def work():
    # Until its server is killed: it keeps its connections, and has no requests that end.
    place = os.environ["PLACE"] + "/parent"
    with open(place, "a", buffering=1) as file, suppress(OperationalError):
        while True:
            print(*(session(alias) for alias in ("default", "replica")), file=file)
            time.sleep(0.01)

@worker_init.connect
def begin(**_):
    # In the thread that forks, and in another one.
    session("default"), session("replica")
    threading.Thread(target=work, daemon=True).start()
"""

CLIENT = """
import json, sys
import django
django.setup()
from project.celery_app import app
from visits.tasks import visit

results = [visit.delay(f"{sys.argv[1]}-{number}") for number in range(int(sys.argv[2]))]
print(json.dumps([result.get(timeout=30) for result in results]))
"""


@pytest.fixture
def anyio_backend() -> object:
    """Watch the worker from one event loop."""
    return "asyncio", {"use_uvloop": False}


class Celery:
    """One Celery worker, with its messages in a directory."""

    def __init__(self, place: Path, dsn: str) -> None:
        self.place = place
        for name, text in (("files", SETTINGS), ("worker", WORKER), ("client", CLIENT)):
            (place / f"{name}.py").write_text(text)
        for name in ("messages", "control", "results"):
            (place / name).mkdir()
        self.environment = {
            **os.environ,
            "DATABASE_URL": dsn,
            "DJANGO_SETTINGS_MODULE": "files",
            "PLACE": str(place),
            "PYTHONPATH": os.pathsep.join([str(place), str(PROJECT)]),
        }

    async def run(self, *words: str) -> str:
        """Run a program of the project, and return what it prints."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, env=self.environment, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()

    async def visits(self, name: str, count: int) -> set[int]:
        """Let tasks write; return the sessions that they wrote in."""
        return set(json.loads(await self.run(str(self.place / "client.py"), name, str(count))))

    def parent_sessions(self) -> list[set[int]]:
        """Return the sessions that the parent's thread has used: the master's and a replica's."""
        lines = (self.place / "parent").read_text().splitlines()
        rows = [[int(number) for number in line.split()] for line in lines if " " in line]
        return [set(column) for column in zip(*rows, strict=True)]

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run a worker with two children for the duration of a block."""
        words = "-m celery -A worker worker --pool prefork --concurrency 2 --without-gossip"
        with (self.place / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, *words.split(), "--without-mingle", "--without-heartbeat"),
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


async def test_parent_and_prefork_children_do_not_disturb_each_other(
    pg_cluster: LocalCluster, tmp_path: Path
) -> None:
    name = f"celery_{uuid4().hex}"
    celery = Celery(tmp_path, f"{pg_cluster.dsn}?application_name={name}")
    await empty_database(pg_cluster.master)
    await celery.run(str(PROJECT / "manage.py"), "migrate", "--verbosity=0")
    async with celery.worker() as worker:
        ours = await celery.visits("before", 20)
        theirs = celery.parent_sessions()
        # The parent still has the two sessions that it had before the children started.
        assert [len(each) for each in theirs] == [1, 1]
        assert not ours & set().union(*theirs)
        _, new = await fail_over(pg_cluster)
        await celery.visits("after", 20)
        assert await new.sql("SELECT count(DISTINCT page) FROM visits") == "40"
        worker.terminate()
        async with asyncio.timeout(20):
            assert await worker.wait() == 0
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log, log
    for node in pg_cluster.nodes:
        if node.running:
            await until_sessions(node, name, 0)
    await empty_database(new)
