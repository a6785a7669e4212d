"""Visits with aiohttp: writes go to the master, reads to a replica.

DATABASE_URL=postgresql://app@db1,db2,db3/app python -m aiohttp.web examples.aiohttp_app:make_app
"""

import os
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler

from hasql import NotAvailableError
from hasql.asyncpg import PoolManager

POOL = web.AppKey("pool", PoolManager)
routes = web.RouteTableDef()


async def pool_context(app: web.Application) -> AsyncIterator[None]:
    async with PoolManager(os.environ["DATABASE_URL"], acquire_timeout=15) as pool:
        app[POOL] = pool
        yield
        await pool.drain()  # background work may finish


@web.middleware
async def unavailable(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except NotAvailableError as error:
        raise web.HTTPServiceUnavailable(headers={"Retry-After": "1"}) from error


@routes.post("/visits/{page}")
async def visit(request: web.Request) -> web.Response:
    async with request.app[POOL].acquire_master() as conn:
        await conn.execute("INSERT INTO visits (page) VALUES ($1)", request.match_info["page"])
    # The connection is back in the pool by now, so a slow client does not hold it.
    return web.Response(status=201)


@routes.get("/visits")
async def visits(request: web.Request) -> web.Response:
    async with request.app[POOL].acquire_replica() as conn:
        count = await conn.fetchval("SELECT count(*) FROM visits")
    return web.json_response(count)


@routes.get("/health/ready")
async def ready(request: web.Request) -> web.Response:
    pool = request.app[POOL]
    return web.json_response(
        {"masters": pool.master_pool_count, "replicas": pool.replica_pool_count},
        status=200 if pool.master_pool_count else 503,
    )


def make_app(_arguments: list[str] | None = None) -> web.Application:
    app = web.Application(middlewares=[unavailable])
    app.cleanup_ctx.append(pool_context)
    app.add_routes(routes)
    return app
