"""Visits with Litestar and a repository from advanced-alchemy: writes go to the master.

DATABASE_URL=postgresql://app@db1,db2,db3/app uvicorn --app-dir examples litestar_app:app
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from advanced_alchemy.base import BigIntBase
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from litestar import Litestar, Request, Response, get, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath
from sqlalchemy.orm import Mapped

from hasql import NotAvailableError
from hasql.asyncsqlalchemy import PoolManager, async_sessionmaker

pool = PoolManager(os.environ["DATABASE_URL"], acquire_timeout=15)
Session = async_sessionmaker(pool, expire_on_commit=False)


class Visit(BigIntBase):
    __tablename__ = "visits"

    page: Mapped[str]


class VisitRepository(SQLAlchemyAsyncRepository[Visit]):
    model_type = Visit


# Litestar ends these generators before it sends the response: a slow client holds no connection.


async def provide_visits() -> AsyncGenerator[VisitRepository]:
    async with Session.begin() as session:  # commits at the end
        yield VisitRepository(session=session)


async def provide_seen_visits() -> AsyncGenerator[VisitRepository]:
    async with Session(read_only=True) as session:
        yield VisitRepository(session=session)


@post("/visits/{page:str}", dependencies={"visits": Provide(provide_visits)})
async def visit(page: FromPath[str], visits: NamedDependency[VisitRepository]) -> None:
    await visits.add(Visit(page=page))


@get("/visits", dependencies={"visits": Provide(provide_seen_visits)})
async def count(visits: NamedDependency[VisitRepository]) -> int:
    return await visits.count()


@get("/health/ready")
async def ready() -> Response[dict[str, int]]:
    return Response(
        {"masters": pool.master_pool_count, "replicas": pool.replica_pool_count},
        status_code=200 if pool.master_pool_count else 503,
    )


def unavailable(_request: Request[Any, Any, Any], _error: NotAvailableError) -> Response[None]:
    return Response(None, status_code=503, headers={"Retry-After": "1"})


@asynccontextmanager
async def lifespan(_app: Litestar) -> AsyncGenerator[None]:
    async with pool:
        yield
        await pool.drain()  # background work may finish


app = Litestar(
    [visit, count, ready],
    lifespan=[lifespan],
    exception_handlers={NotAvailableError: unavailable},
)
