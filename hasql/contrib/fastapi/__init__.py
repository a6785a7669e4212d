"""FastAPI and Starlette: connections as dependencies, given back before the response is sent.

::

    db = Hasql(PoolManager("postgresql://app@db1,db2,db3/app"))
    app = FastAPI(lifespan=db.lifespan)
    db.install(app)
    app.include_router(db.health)


    @app.get("/visits")
    async def visits(conn: Annotated[asyncpg.Connection, Depends(db.replica)]) -> int:
        return await conn.fetchval("SELECT count(*) FROM visits")
"""

from hasql.errors import MissingExtraError

try:
    from hasql.contrib.fastapi.access import Access
    from hasql.contrib.fastapi.extension import Hasql
except ImportError as error:
    raise MissingExtraError(
        "hasql.contrib.fastapi needs FastAPI: pip install 'hasql[fastapi]'"
    ) from error

__all__ = ("Access", "Hasql")
