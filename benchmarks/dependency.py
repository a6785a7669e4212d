"""Measures what a connection as a dependency of FastAPI costs a request.

    make bench ARGS="dependency --rounds 40"

Requests that run ``SELECT 1`` are passed to applications in this process, without a web server. The
applications get their connection in different ways, and each has a lap in each round, in turn. ``a
generator`` is the usual dependency, with ``yield`` in an ``async with pool.acquire_master()``.
"""

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from statistics import median
from typing import Annotated, Any

import asyncpg
import uvloop
from fastapi import Depends, FastAPI

from hasql.asyncpg import PoolManager
from hasql.contrib.fastapi import Access, Hasql
from hasql.testing import LocalCluster

__all__ = ("main",)

_PLAIN = "async with in the endpoint"


def applications(db: Hasql[Any]) -> dict[str, FastAPI]:
    """Make an application for each way to get a connection."""
    pool = db.pool
    apps = {
        name: FastAPI() for name in (_PLAIN, "installed", "a generator", "db.master", "db.access")
    }
    for name in ("installed", "db.master", "db.access"):
        db.install(apps[name])

    @apps["installed"].get("/")
    @apps[_PLAIN].get("/")
    async def plain() -> int:
        async with pool.acquire_master() as conn:
            return int(await conn.fetchval("SELECT 1"))

    async def generator() -> AsyncIterator[Any]:
        async with pool.acquire_master() as conn:
            yield conn

    @apps["a generator"].get("/")
    async def by_generator(conn: Annotated[asyncpg.Connection, Depends(generator)]) -> int:
        return int(await conn.fetchval("SELECT 1"))

    @apps["db.master"].get("/")
    async def by_master(conn: Annotated[asyncpg.Connection, Depends(db.master)]) -> int:
        return int(await conn.fetchval("SELECT 1"))

    @apps["db.access"].get("/")
    async def by_access(access: Annotated[Access, Depends(db.access)]) -> int:
        async with access.master() as conn:
            return int(await conn.fetchval("SELECT 1"))

    return apps


async def request(app: FastAPI) -> None:
    """Make an application answer one request."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200  # noqa: S101 - otherwise the measurement is wrong

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "client": None,
        "server": None,
    }
    await app(scope, receive, send)


async def measure(dsn: str, rounds: int, requests: int) -> dict[str, list[float]]:
    """Return, for each way to get a connection, the seconds of a request in each round."""
    db = Hasql(PoolManager(dsn))
    laps: dict[str, list[float]] = defaultdict(list)
    async with db.lifespan(FastAPI()):
        apps = list(applications(db).items())
        for number in range(rounds + 1):
            for name, app in apps[number % len(apps) :] + apps[: number % len(apps)]:
                began = time.perf_counter()
                for _ in range(requests):
                    await request(app)
                if number:  # the first one warms up
                    laps[name].append((time.perf_counter() - began) / requests)
    return laps


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=100, help="in each lap")
    options = parser.parse_args()
    print(f"{'microseconds a request':28} median  added to plain: median, of the shortest laps")
    with LocalCluster(replicas=0) as cluster:
        for loop in (asyncio.run, uvloop.run):
            laps = loop(measure(cluster.dsn, options.rounds, options.requests))
            plain = laps[_PLAIN]
            for name, times in laps.items():
                added = median(x - y for x, y in zip(times, plain, strict=True))
                shortest = min(times) - min(plain)
                figures = f"{median(times) * 1e6:6.0f}  {added * 1e6:+6.1f}, {shortest * 1e6:+6.1f}"
                print(f"{loop.__module__.partition('.')[0]:8} {name:27} {figures}")


if __name__ == "__main__":
    main()
