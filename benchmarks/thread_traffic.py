"""The load of traffic.py in threads, and the drivers of `hasql.sync` behind its interface.

The coroutines never suspend here: each thread runs one of them from beginning to end.
"""

import asyncio
import time
from collections.abc import Coroutine
from threading import Thread
from typing import Any

from contender import Contender, Psycopg
from contender import SQLAlchemy as Asynchronous
from traffic import Traffic

from testbed.kits.in_threads import ManagerOfThreads
from testbed.workers import run_to_end

__all__ = ("SYNC_DRIVERS", "ThreadTraffic")


class ThreadTraffic(Traffic):
    """Runs in threads until it is stopped."""

    def _begin(self, work: Coroutine[Any, Any, None], name: str, among: list[Any]) -> None:
        thread = Thread(target=run_to_end, args=(work,), name=name, daemon=True)
        among.append(thread)
        thread.start()

    async def _rest(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - in a thread of its own

    async def _end(self, patience: float) -> list[str]:
        return await asyncio.to_thread(self._join, patience)

    def _join(self, patience: float) -> list[str]:
        # Threads that hang end when the manager closes and breaks their connections.
        deadline = time.monotonic() + patience
        for thread in (*self._tasks, *self._breakers):
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread.name for thread in self._tasks if thread.is_alive()]


class _ForThreads(Contender):
    """A contender whose manager for threads has the interface of one for tasks."""

    def manager(self, dsn: str, size: int, *, reset: bool = True, **kwargs: Any) -> Any:
        return ManagerOfThreads(super().manager(dsn, size, reset=reset, **kwargs))


class _SyncPsycopg(_ForThreads, Psycopg):
    module = "hasql.sync.psycopg3"

    async def value(self, connection: Any, query: str) -> Any:
        return connection.execute(query).fetchone()[0]

    async def write(self, connection: Any, statement: str) -> Any:
        value = await self.value(connection, statement)
        connection.commit()
        return value


class _SyncSQLAlchemy(_ForThreads, Asynchronous):
    module = "hasql.sync.sqlalchemy"

    async def value(self, connection: Any, query: str) -> Any:
        return connection.execute(self._text(query)).scalar_one()

    async def write(self, connection: Any, statement: str) -> Any:
        value = await self.value(connection, statement)
        connection.commit()
        return value


class _SyncPsycopg2(_ForThreads):
    module = "hasql.sync.psycopg2"

    def options(self, size: int, *, reset: bool) -> dict[str, Any]:
        del reset
        return {"pool_size": size, "max_overflow": 0}

    async def value(self, connection: Any, query: str) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]

    async def write(self, connection: Any, statement: str) -> Any:
        value = await self.value(connection, statement)
        connection.commit()
        return value


SYNC_DRIVERS: dict[str, type[Contender]] = {
    "sync-psycopg3": _SyncPsycopg,
    "sync-psycopg2": _SyncPsycopg2,
    "sync-sqlalchemy": _SyncSQLAlchemy,
}
