"""Visits: writes go to the master, reads to a replica.

DATABASE_URL=postgresql://app@db1,db2,db3/app uvicorn --app-dir examples fastapi_app:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from hasql.asyncpg import PoolManager

pool = PoolManager(os.environ["DATABASE_URL"], acquire_timeout=15)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with pool:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/health/ready")
async def ready() -> int:
    return pool.master_pool_count


@app.post("/visits/{page}", status_code=201)
async def visit(page: str) -> None:
    async with pool.acquire_master() as conn:
        await conn.execute("INSERT INTO visits (page) VALUES ($1)", page)


@app.get("/visits")
async def visits() -> int:
    async with pool.acquire_replica() as conn:
        count: int = await conn.fetchval("SELECT count(*) FROM visits")
        return count
