"""The driver of the simulated servers, and the pool manager that uses it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hasql.base import BasePoolManager
from hasql.driver.connects import PendingConnects
from simulation.connections import Connection
from simulation.transactions import SimulatedTransaction
from testbed.fake_driver import FakeDriver, FakePool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from random import Random

    from hasql._probing.followed_names import NameSource
    from hasql.cluster.host import HostSpec
    from hasql.driver import Endpoint, PoolSizes
    from hasql.resilience.task_runs import TaskRuns
    from simulation.knowledge import Knowledge
    from simulation.names import Names
    from simulation.servers import Server
    from testbed.fake_driver import FakeConnection, Report

__all__ = ("SimulatedDriver", "SimulatedManager", "SimulatedPool")


class SimulatedPool(FakePool):
    """A pool whose connects can be ended, like those of the real drivers."""

    transaction = SimulatedTransaction  # type: ignore[assignment]  # replaces the scripted one

    def __init__(
        self,
        log_in: Callable[[], Awaitable[FakeConnection]],
        server: Server,
        sizes: PoolSizes,
        report: Report,
    ) -> None:
        super().__init__(log_in, lambda: server, sizes, report)
        self._connects = PendingConnects()
        self._connecting = 0
        #: Whether giving back costs a round trip, and whether leaving a block costs another.
        self.resets = self.commits = True
        self.leave_block = self._leave_block

    async def acquire(self, **kwargs: Any) -> FakeConnection:
        if any(not connection.closed for connection in self.free):
            return await super().acquire(**kwargs)
        if self.closed:
            raise ConnectionError("the pool is closed")
        assert len(self.lent) + self._connecting < self.sizes.maximum, "the core lets nobody wait"
        self._connecting += 1
        try:
            connection = await self._connects.run(self.log_in())
        finally:
            self._connecting -= 1
        self.lent.add(connection)
        connection.hold()
        return connection

    def _leave_block(
        self, connection: FakeConnection, error: BaseException | None
    ) -> Awaitable[None] | None:
        ended, connection.transaction = connection.transaction, None
        if ended is not None:
            return None  # `run` leaves no transaction open
        return connection.run() if self.commits and error is None else None

    async def release(self, connection: FakeConnection, **kwargs: Any) -> None:
        if self.resets:
            await super().release(connection, **kwargs)
            return
        self.lent.discard(connection)
        if not connection.closed:
            self.free.append(connection)

    def drain(
        self, leased: Iterable[FakeConnection], has_left: Callable[[str | None], bool]
    ) -> None:
        kept = set(leased)
        super().drain(kept, has_left)
        # Those that are lent but in no book yet, as in `purge`.
        for connection in sorted(self.lent - kept, key=lambda each: each.login_pid):
            if has_left(connection.address):
                connection.lose()
        self._connects.end()

    def purge(self, lent: Iterable[FakeConnection]) -> None:
        kept = set(lent)
        super().purge(kept)
        # A connection whose acquire is still checking where it leads is lent, but in no book yet.
        for connection in sorted(self.lent - kept, key=lambda each: each.login_pid):
            connection.lose()
        self._connects.end()

    def end_connects(self) -> None:
        self._connects.end()

    def terminate(self) -> None:
        self.closed = True
        self._connects.end()
        # Sorted, so that the order is the same in each run; the order of a set is not.
        for connection in sorted((*self.free, *self.lent), key=lambda each: each.login_pid):
            connection.lose()
        self.free.clear()


class SimulatedDriver(FakeDriver):
    """The driver of one pool manager."""

    def __init__(
        self, servers: Mapping[HostSpec, Server], knowledge: Knowledge, chance: Random
    ) -> None:
        super().__init__(servers)
        self._by_host = servers
        self.knowledge = knowledge
        self._resets, self._commits = chance.random() < 0.5, chance.random() < 0.5

    async def open(self, endpoint: Endpoint, kwargs: Mapping[str, Any], report: Report) -> FakePool:
        log_in, server = partial(self._dial, endpoint), self._by_host[endpoint.host]
        pool = SimulatedPool(log_in, server, self.sizes(kwargs), report)
        pool.resets, pool.commits = self._resets, self._commits
        try:
            for _ in range(pool.sizes.minimum):
                pool.free.append(await pool.log_in())
        except BaseException:
            pool.terminate()
            raise
        self.pools.append(pool)
        return pool

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> Connection:
        del kwargs
        connection = await self._dial(endpoint)
        connection.on_lost = on_lost
        return connection

    async def _dial(self, endpoint: Endpoint) -> Connection:
        async def dial(address: str | None) -> Connection:
            connection = await self._by_host[endpoint.host].connect(self.knowledge)
            connection.address = address
            return connection

        return await endpoint.connect(dial, self.failure, Connection.lose)


class SimulatedManager(BasePoolManager[FakePool, Connection]):
    """A pool manager that uses the story's time and chance."""

    def __init__(
        self,
        driver: SimulatedDriver,
        names: Names | None,
        clock: Callable[[], float],
        chance: Random,
        **options: Any,
    ) -> None:
        self.driver = driver
        self.names = names
        self._driver = driver  # type: ignore[misc]  # one for each manager
        self._given = clock, chance
        hosts = ",".join(str(host) for host in driver.servers)
        super().__init__(f"postgresql://user:secret@{hosts}/app", **options)

    @property
    def runs(self) -> TaskRuns[FakePool, Connection]:
        """The object that runs units of work, also for sessions that route themselves."""
        return self._runs

    def _name_source(self, _: object, /) -> Callable[[], NameSource] | None:  # type: ignore[override]  # of this one
        names = self.names
        return None if names is None else lambda: names

    def _clock(self) -> Callable[[], float]:  # type: ignore[override]  # of this one
        return self._given[0]

    def _chance(self) -> Random:  # type: ignore[override]  # as above
        return self._given[1]
