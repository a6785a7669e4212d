"""The drivers for threads, as a load uses them: see `testbed.workers`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from testbed.kits.base import LoadKit
from testbed.sync_kits import SYNC_KITS
from testbed.workers import ThreadWorkers, run_to_end

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import TracebackType

    from hasql.sync.base import BaseSyncPoolManager
    from testbed.sync_kits import SyncKit
    from testbed.workers import Workers

__all__ = ("ALL", "ManagerOfThreads", "ThreadLoadKit")


class _Acquire:
    """An acquire of a manager for threads, with the interface of an async one."""

    def __init__(self, manager: BaseSyncPoolManager[Any, Any], *args: Any, **kwargs: Any) -> None:
        self._manager, self._args, self._kwargs = manager, args, kwargs

    def __await__(self) -> Generator[None, None, Any]:
        return self._manager.getconn(*self._args, **self._kwargs)
        yield  # makes this a generator, because `await` needs an iterator

    async def __aenter__(self) -> Any:
        self._lease = self._manager.acquire(*self._args, **self._kwargs)
        return self._lease.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lease.__exit__(exc_type, exc, traceback)


class ManagerOfThreads:
    """A pool manager for threads, with the interface of one for tasks.

    The work of a load uses it in a thread, and blocks there. Calls about the manager as a whole are
    made in the event loop.
    """

    def __init__(self, manager: BaseSyncPoolManager[Any, Any]) -> None:
        self.manager = manager
        self.metrics = manager.metrics
        self.category, self.retriable = manager.category, manager.retriable

    @property
    def master_pool_count(self) -> int:
        return self.manager.master_pool_count

    @property
    def replica_pool_count(self) -> int:
        return self.manager.replica_pool_count

    def acquire(self, read_only: bool = False, **kwargs: Any) -> Any:  # same signature
        return _Acquire(self.manager, read_only, **kwargs)

    def acquire_master(self, **kwargs: Any) -> Any:
        return _Acquire(self.manager, read_only=False, **kwargs)

    def acquire_replica(self, **kwargs: Any) -> Any:
        return _Acquire(self.manager, read_only=True, **kwargs)

    async def run(self, work: Callable[[Any], Coroutine[Any, Any, Any]], **kwargs: Any) -> Any:
        return self.manager.run(lambda connection: run_to_end(work(connection)), **kwargs)

    async def release(self, connection: Any) -> None:
        self.manager.putconn(connection)

    async def ready(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.to_thread(self.manager.ready, *args, **kwargs)

    async def close(self, *args: Any) -> None:
        await asyncio.to_thread(self.manager.close, *args)

    async def terminate(self) -> None:
        await asyncio.to_thread(self.manager.terminate)


class ThreadLoadKit(LoadKit):
    """A driver for threads, whose coroutines never suspend."""

    over_libpq = True

    def __init__(self, kit: SyncKit) -> None:
        self.name = f"sync-{kit.name}"
        self.module, self.lost = kit.module, kit.lost
        self.min_keyword, self.max_keyword = kit.min_keyword, kit.max_keyword
        self.unprepared = kit.unprepared  # type: ignore[misc]  # that kit's class variable
        self._kit = kit

    def manager(self, dsn: str, /, *args: Any, **kwargs: Any) -> Any:
        return ManagerOfThreads(self._kit.manager(dsn, *args, **kwargs))

    def workers(self) -> Workers:
        return ThreadWorkers()

    def sizes(self, minimum: int, maximum: int) -> dict[str, Any]:
        return self._kit.sizes(minimum, maximum)

    async def value(self, connection: Any, query: str) -> Any:
        return self._kit.value(connection, query)

    async def begin(self, connection: Any, statement: str) -> None:
        self._kit.begin(connection, statement)

    async def write(self, connection: Any, statement: str) -> None:
        self._kit.begin(connection, statement)
        self._kit.end(connection)


ALL = tuple(map(ThreadLoadKit, SYNC_KITS))
