"""An application: one driver's pool manager, under a load that records every operation."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self
from uuid import uuid4

from chaos.failures import Stopwatch
from hasql.errors import HasqlError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from hasql.testing import LocalCluster
    from testbed.kits.base import LoadKit

__all__ = (
    "ACQUIRE_TIMEOUT",
    "LEASE_ABORT_AFTER",
    "LONGEST",
    "Acknowledged",
    "Application",
    "Load",
    "Operation",
    "Read",
)

ACQUIRE_TIMEOUT = 10.0
"""Seconds that an operation waits for a server: longer than any fault here lasts for one host."""

LEASE_ABORT_AFTER = 2.0
"""Seconds of silence after which a lease is aborted; short, so that a run sees it happen."""

LONGEST = ACQUIRE_TIMEOUT + LEASE_ABORT_AFTER + 2.0
"""The most seconds that an operation may take: both bounds, and the time to detect a frozen host.
"""


class Acknowledged(NamedTuple):
    """A row whose insert returned at the time `at`."""

    client: int
    number: int
    at: float


class Read(NamedTuple):
    """What a reader found out about the server of its lease."""

    port: int
    in_recovery: bool
    #: When the lease was asked for, and when the answer arrived.
    began: float
    at: float


class Operation(NamedTuple):
    """An operation that has ended; `error` is None if it succeeded."""

    task: str
    began: float
    ended: float
    error: str | None
    #: How many seconds its thread has waited for a processor.
    starved: float


class Load(NamedTuple):
    """The number of tasks or threads, and of connections in each pool."""

    writers: int = 8
    readers: int = 8
    places: int = 10
    #: Seconds that a task rests between two operations: two cores also run three servers.
    pause: float = 0.002

    def lightened(self) -> Load:
        """Return a load light enough for all drivers at once on one machine."""
        halved = self.writers // 2, (self.readers + 1) // 2, (self.places + 1) // 2
        return Load(*halved, 25 * self.pause)


class Application:
    """An application; use it in ``async with``. It is ready within the block, closed afterwards."""

    #: What its operations use.
    uses: ClassVar[str] = "leases"

    #: Whether drivers may keep statements prepared.
    prepares: ClassVar[bool] = True

    #: The longest time that an operation may take, in seconds.
    longest: ClassVar[float] = LONGEST

    #: Further arguments of its pool manager.
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, kit: LoadKit, cluster: LocalCluster, dsn: str, load: Load) -> None:
        mark = uuid4().hex
        self.kit = kit
        self.load = load
        #: The application_name of its sessions, and the name of its table.
        self.name, self.table = f"chaos_{mark}", f"c_{mark}"
        sizes = kit.sizes(min(2, load.places), load.places)
        self.manager: Any = kit.manager(
            f"{dsn}?application_name={self.name}",
            acquire_timeout=ACQUIRE_TIMEOUT,
            lease_abort_after=LEASE_ABORT_AFTER,
            pool_factory_kwargs=sizes if self.prepares else sizes | kit.unprepared,
            **self.options,
        )
        self.acknowledged: list[Acknowledged] = []
        self.reads: list[Read] = []
        self.operations: list[Operation] = []
        #: The number of operations that did not end when the load ended.
        self.stuck = 0
        #: The error of `ready`, if hosts did not come back after the repair.
        self.incomplete = ""
        #: Seconds that closing the manager took.
        self.closing = 0.0
        self._cluster = cluster
        self.workers = kit.workers()
        self._started = 0
        self._stopping = False

    async def __aenter__(self) -> Self:
        await self._cluster.master.sql(
            f"CREATE TABLE {self.table} (client int, number int, PRIMARY KEY (client, number))"
        )
        await self._cluster.master.sql(f"GRANT ALL ON {self.table} TO app")
        try:
            await self.manager.ready(1, 2)
        except BaseException:
            await self.manager.terminate()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await self.workers.end()
        began = time.monotonic()
        await self.manager.close()
        self.closing = time.monotonic() - began
        await self.workers.wait()

    def start(self) -> None:
        """Start the load, or double it if it has been started."""
        begin = self._started
        for client in range(begin, begin + self.load.writers):
            self._start(f"writer {client}", self._write, client)
        for client in range(begin, begin + self.load.readers):
            self._start(f"reader {client}", self._read, client)

    async def stop(self) -> None:
        """Wait for each worker to end its operation, and count those that do not."""
        self._stopping = True
        self.stuck = await self.workers.stuck_after(self.longest)

    def unforgiven(self) -> Iterator[str]:
        """Yield the errors that no fault excuses: none here, because the verdict counts them."""
        return iter(())

    async def rows(self) -> set[tuple[int, int]]:
        """Return the rows on the master."""
        master = self._cluster.master
        rows = await master.sql(f"SELECT client, number FROM {self.table}")  # noqa: S608 - ours
        pairs = (row.split("|") for row in rows.splitlines())
        return {(int(client), int(number)) for client, number in pairs}

    def _start(self, name: str, operation: Callable[[int, int], Awaitable[None]], of: int) -> None:
        self._started += 1
        self.workers.start(name, self._repeat(name, operation, of))

    async def _repeat(
        self, name: str, operation: Callable[[int, int], Awaitable[None]], client: int
    ) -> None:
        number = 0
        while not self._stopping:
            number += 1
            watch, error = Stopwatch(), None
            try:
                await operation(client, number)
            except Exception as raised:  # noqa: BLE001 - every failure is counted
                error = f"{type(raised).__name__}: {str(raised).partition(chr(10))[0]}"
                if not isinstance(raised, (*self.kit.lost, HasqlError)):
                    where = traceback.extract_tb(raised.__traceback__)[-1]
                    error += f" (unexpected, at {where.filename}:{where.lineno})"
            ended = watch.began + watch.seconds
            self.operations.append(Operation(name, watch.began, ended, error, watch.starved))
            await self.workers.rest(self.load.pause)

    async def _write(self, client: int, number: int) -> None:
        statement = f"INSERT INTO {self.table} VALUES ({client}, {number})"  # noqa: S608 - ours
        async with self.manager.acquire_master() as connection:
            await self.kit.write(connection, statement)
            self.acknowledged.append(Acknowledged(client, number, time.monotonic()))

    async def _read(self, client: int, number: int) -> None:
        del client, number
        began = time.monotonic()
        async with self.manager.acquire_replica() as connection:
            answer = await self.kit.value(
                connection, "SELECT concat(inet_server_port(), ' ', pg_is_in_recovery())"
            )
            port, _, in_recovery = answer.partition(" ")
            self.reads.append(Read(int(port), in_recovery == "t", began, time.monotonic()))
