"""Visits: writes go to the master, reads to a replica.

DATABASE_URL=postgresql://app@db1,db2,db3/app uvicorn --app-dir examples fastapi_app:app
"""

import os
from typing import Annotated

import asyncpg
from fastapi import Depends, FastAPI

from hasql.asyncpg import PoolManager
from hasql.contrib.fastapi import Hasql

# A write during a promotion waits for the new master, for up to 15 seconds.
db = Hasql(PoolManager(os.environ["DATABASE_URL"], acquire_timeout=15))

app = FastAPI(lifespan=db.lifespan)
db.install(app)
app.include_router(db.health)

Master = Annotated[asyncpg.Connection, Depends(db.master)]
Replica = Annotated[asyncpg.Connection, Depends(db.replica)]


@app.post("/visits/{page}", status_code=201)
async def visit(page: str, conn: Master) -> None:
    await conn.execute("INSERT INTO visits (page) VALUES ($1)", page)


@app.get("/visits")
async def visits(conn: Replica) -> int:
    count: int = await conn.fetchval("SELECT count(*) FROM visits")
    return count
