"""Visits with Starlette alone: writes go to the master, reads to a replica.

DATABASE_URL=postgresql://app@db1,db2,db3/app uvicorn --app-dir examples starlette_app:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hasql import NotAvailableError
from hasql.asyncpg import PoolManager


class State(TypedDict):
    pool: PoolManager


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[State]:
    async with PoolManager(os.environ["DATABASE_URL"], acquire_timeout=15) as pool:
        yield {"pool": pool}
        await pool.drain()  # background work may finish


async def visit(request: Request) -> Response:
    pool: PoolManager = request.state.pool
    async with pool.acquire_master() as conn:
        await conn.execute("INSERT INTO visits (page) VALUES ($1)", request.path_params["page"])
    # The connection is back in the pool by now, so a slow client does not hold it.
    return Response(status_code=201)


async def visits(request: Request) -> Response:
    pool: PoolManager = request.state.pool
    async with pool.acquire_replica() as conn:
        count = await conn.fetchval("SELECT count(*) FROM visits")
    return JSONResponse(count)


async def ready(request: Request) -> Response:
    pool: PoolManager = request.state.pool
    return JSONResponse(
        {"masters": pool.master_pool_count, "replicas": pool.replica_pool_count},
        200 if pool.master_pool_count else 503,
    )


async def unavailable(_request: Request, _error: Exception) -> Response:
    return Response(status_code=503, headers={"Retry-After": "1"})


app = Starlette(
    routes=[
        Route("/visits/{page}", visit, methods=["POST"]),
        Route("/visits", visits),
        Route("/health/ready", ready),
    ],
    lifespan=lifespan,
    exception_handlers={NotAvailableError: unavailable},
)
