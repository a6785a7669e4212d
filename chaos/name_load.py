"""An application whose hosts are names, under a load that records where each lease leads."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from chaos.application import ACQUIRE_TIMEOUT, LONGEST
from hasql.cluster.dsn import Dsn
from hasql.dns import Resolver
from hasql.errors import HasqlError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import LoadKit
    from testbed.nameserver import NameServer

__all__ = ("NameLoad", "NamedLease")

_WHERE = "SELECT concat_ws(' ', inet_server_port(), host(inet_server_addr()), pg_backend_pid())"

_WRITERS, _READERS, _PLACES = 2, 2, 4

_PAUSE = 0.01
"""Seconds that a task rests between two operations: asyncpg renews a connection at 50,000 queries.
"""

_LITTLE_PATIENCE = {"timeout": 0.2, "max_retries": 1, "grace_ttl": 0.2, "extend_grace": False}
"""Settings of the resolver in the short form: it has no answer soon after an outage begins."""


class NamedLease(NamedTuple):
    """A lease, and what it led to; `at` is when it was handed out, in monotonic seconds."""

    port: int
    address: str
    pid: int
    at: float


class NameLoad:
    """One driver's pool manager, whose hosts have names that no other application uses.

    If there is a second nameserver, there is a second manager, whose names are always answered. The
    same acquires are made from both in turn, for comparison.
    """

    def __init__(
        self,
        kit: LoadKit,
        cluster: LocalCluster,
        nameserver: NameServer,
        sound: NameServer | None,
        *,
        short: bool,
    ) -> None:
        self.kit = kit
        self.leases: list[NamedLease] = []
        #: The numbers of the acknowledged rows, of all clients.
        self.acknowledged: list[int] = []
        self.errors: list[str] = []
        #: How long each operation took.
        self.hangs: list[float] = []
        #: The number of operations that did not end when the load ended.
        self.stuck = 0
        #: Seconds that acquires took through the manager, and through the second manager.
        self.waits: list[float] = []
        self.waits_beside: list[float] = []
        self._table = f"n_{uuid4().hex}"
        self._cluster = cluster
        self._stopping = False
        self._workers = kit.workers()
        self._expected: tuple[type[Exception], ...] = (*kit.lost, HasqlError)
        patience = _LITTLE_PATIENCE if short and sound is not None else {}
        self._manager = self._make_manager(nameserver, patience)
        self._beside = None if sound is None else self._make_manager(sound, patience)

    def name(self, node: LocalNode) -> str:
        """Return this application's name for a server."""
        return f"{node.name}.{self.kit.name.replace('_', '-')}.test"

    def _make_manager(self, nameserver: NameServer, patience: dict[str, Any]) -> Any:  # noqa: ANN401 - either face's
        login = Dsn.parse(self._cluster.dsn)
        hosts = ",".join(f"{self.name(node)}:{node.port}" for node in self._cluster.nodes)
        return self.kit.manager(
            f"postgresql://{login.user}:{login.password}@{hosts}/app",
            acquire_timeout=ACQUIRE_TIMEOUT,
            pool_factory_kwargs=self.kit.sizes(1, _PLACES),
            resolver=Resolver(nameservers=[nameserver.address], fallback=False, **patience),
        )

    @property
    def _managers(self) -> list[Any]:
        return [each for each in (self._manager, self._beside) if each is not None]

    async def prepare(self) -> None:
        """Create the table, and wait for every host."""
        master = self._cluster.master
        await master.sql(f"CREATE TABLE {self._table} (client int, number int)")
        await master.sql(f"GRANT ALL ON {self._table} TO app")
        await asyncio.gather(*(manager.ready(1, 2) for manager in self._managers))

    def start(self) -> None:
        if self._beside is not None:
            self._start(self._compare, 0)
            return
        for client in range(_WRITERS):
            self._start(self._write, client)
        for client in range(_READERS):
            self._start(self._read, client)

    async def stop(self) -> None:
        """Wait for each worker to end its operation, and count those that do not."""
        self._stopping = True
        self.stuck = await self._workers.stuck_after(LONGEST)
        await self._workers.end()
        await asyncio.gather(*(manager.close() for manager in self._managers))
        await self._workers.wait()

    async def terminate(self) -> None:
        await asyncio.gather(*(manager.terminate() for manager in self._managers))

    async def rows(self) -> int:
        """Count the rows on the master."""
        count = f"SELECT count(*) FROM {self._table}"  # noqa: S608 - ours
        return int(await self._cluster.master.sql(count))

    async def use_places(self, places: int = _PLACES) -> None:
        """Take that many connections of each pool at once; missing ones are opened."""

        async def use(manager: Any, *, read_only: bool) -> None:  # noqa: ANN401 - as above
            async with AsyncExitStack() as stack:
                for _ in range(places * (2 if read_only else 1)):
                    await self._note(await stack.enter_async_context(manager.acquire(read_only)))

        for manager in self._managers:
            for read_only in (False, True):
                await self._workers.do(self._noted(use(manager, read_only=read_only)))

    async def open_more(self) -> None:
        """Open connections besides those that the load uses."""
        await self.use_places(_PLACES - 1)

    def _start(self, operation: Callable[[int, int], Awaitable[None]], client: int) -> None:
        self._workers.start(f"client {client}", self._repeat(operation, client))

    async def _repeat(self, operation: Callable[[int, int], Awaitable[None]], client: int) -> None:
        number = 0
        while not self._stopping:
            number += 1
            await self._noted(operation(client, number))
            await self._workers.rest(_PAUSE)

    async def _noted(self, operation: Awaitable[None]) -> None:
        began = time.monotonic()
        try:
            await operation
        except self._expected as error:
            self.errors.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        self.hangs.append(time.monotonic() - began)

    async def _write(self, client: int, number: int) -> None:
        async with self._manager.acquire_master() as connection:
            await self._note(connection)
            await self.kit.write(
                connection,
                f"INSERT INTO {self._table} VALUES ({client}, {number})",  # noqa: S608 - ours
            )
            self.acknowledged.append(number)

    async def _read(self, client: int, number: int) -> None:
        del client, number
        async with self._manager.acquire_replica() as connection:
            await self._note(connection)

    async def _note(self, connection: Any) -> None:  # noqa: ANN401 - the driver's
        at = time.monotonic()
        port, address, pid = (await self.kit.value(connection, _WHERE)).split()
        self.leases.append(NamedLease(int(port), address, int(pid), at))

    async def _compare(self, client: int, number: int) -> None:
        """Acquire from both managers; the order changes each time."""
        del client
        assert self._beside is not None
        sides = [(self._manager, self.waits), (self._beside, self.waits_beside)]
        for manager, waits in sides if number % 2 else reversed(sides):
            began = time.perf_counter()
            async with manager.acquire(read_only=number % 4 > 1) as connection:
                waits.append(time.perf_counter() - began)
                await self._note(connection)
