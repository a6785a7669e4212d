"""psycopg 3 as a driver for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import psycopg_pool
from psycopg import Connection

from hasql._adapters.psycopg.driver import check_pool_kwargs
from hasql._adapters.psycopg.failure import failure_of, sqlstate_of
from hasql._adapters.psycopg.login import open_session
from hasql._adapters.psycopg.thread_login import connect_for_session
from hasql._adapters.psycopg.thread_pool import PsycopgThreadPool, SyncConnection, SyncPool
from hasql.driver import Driver, Endpoint, Failure, PoolSizes
from hasql.driver.arguments import with_bounds
from hasql.driver.threads import in_thread

if TYPE_CHECKING:
    from hasql._adapters.psycopg.session import PsycopgSession

__all__ = ("PsycopgThreadDriver",)

_OnLost: TypeAlias = Callable[[], None]
_Report: TypeAlias = Callable[[SyncConnection, BaseException], None]


class PsycopgThreadDriver(Driver[SyncPool, SyncConnection]):
    """psycopg 3 and its pool for threads as a whole."""

    ages: ClassVar[Mapping[str, tuple[str, bool]]] = {
        "max_lifetime": ("max_lifetime", True),
        "max_idle": ("max_idle", True),
    }

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        return check_pool_kwargs(kwargs)

    def resized(
        self, kwargs: Mapping[str, Any], minimum: int | None, maximum: int | None
    ) -> dict[str, Any]:
        return with_bounds(kwargs, self.sizes(kwargs), (minimum, maximum), ("min_size", "max_size"))

    async def open(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], report: _Report
    ) -> PsycopgThreadPool:
        del report  # psycopg shows the error of a statement only to the thread that runs it
        return await PsycopgThreadPool(endpoint, kwargs, self.sizes(kwargs)).open()

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: _OnLost
    ) -> PsycopgSession:
        extra = kwargs.get("kwargs") or {}
        if callable(extra):  # it may wait, for a password for example
            extra = await asyncio.wrap_future(in_thread(extra, "hasql kwargs"))
        user_class = kwargs.get("connection_class") or Connection
        if user_class is Connection:
            return await open_session(endpoint, extra, on_lost)
        # It may add a password that is made anew for each login.
        return await open_session(
            endpoint, extra, on_lost, partial(connect_for_session, user_class)
        )

    def failure(self, error: BaseException) -> Failure:
        if isinstance(error, psycopg_pool.PoolTimeout | psycopg_pool.TooManyRequests):
            return Failure.FULL
        return failure_of(error)

    sqlstate = staticmethod(sqlstate_of)
