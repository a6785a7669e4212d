"""The load of a lease scene: one driver's pool manager, and workers that lease from it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from chaos.application import ACQUIRE_TIMEOUT, LEASE_ABORT_AFTER, LONGEST
from hasql.errors import NotAvailableError

if TYPE_CHECKING:
    from chaos.passages import Passage
    from hasql.testing import LocalNode
    from testbed.kits.base import LoadKit

__all__ = ("Lease", "LeaseLoad")

_QUESTION = (
    "SELECT concat_ws(' ', inet_server_port(), pg_backend_pid(), pg_catalog.pg_is_in_recovery())"
)

_END_OWN_SESSION = "SELECT count(pg_terminate_backend(pg_backend_pid()))"

_WRITERS, _READERS = 4, 1


class Lease(NamedTuple):
    """A lease, and the server that it was found to be on; times are monotonic seconds."""

    read_only: bool
    port: int
    pid: int
    in_recovery: bool
    #: When it was handed out, and when the answer arrived.
    at: float
    answered: float


class LeaseLoad:
    """One driver's pool manager, and workers that lease masters and replicas from it."""

    def __init__(self, kit: LoadKit, passage: Passage, pause: float) -> None:
        self.kit = kit
        self.leases: list[Lease] = []
        self.errors: list[str] = []
        #: How long each operation took.
        self.hangs: list[float] = []
        #: The number of operations that did not end when the load ended.
        self.stuck = 0
        self._stopping = False
        sizes = kit.sizes(1, 6)
        dsn = f"{passage.dsn}?application_name=leases_{uuid4().hex}"
        if passage.settings:
            dsn += f"&{kit.settings_in_dsn(passage.settings)}"
        self.manager: Any = kit.manager(
            dsn,
            acquire_timeout=ACQUIRE_TIMEOUT,
            lease_abort_after=LEASE_ABORT_AFTER,
            pool_factory_kwargs=sizes | kit.unprepared if passage.pools_transactions else sizes,
            **passage.arguments,
        )
        self._pause = pause
        self._workers = kit.workers()

    def start(self) -> None:
        for number in range(_WRITERS + _READERS):
            self._workers.start(f"lessee {number}", self._repeat(read_only=number >= _WRITERS))

    async def stop(self) -> None:
        """Wait for each worker to end its operation, and count those that do not."""
        self._stopping = True
        self.stuck = await self._workers.stuck_after(LONGEST)
        await self._workers.end()
        await self.manager.close()
        await self._workers.wait()

    async def lose_session(self) -> None:
        """Make a master end a session in the middle of a lease, as an administrator may."""
        await self._workers.do(self._lose_session())

    @property
    def masters(self) -> int:
        return sum(not lease.read_only for lease in self.leases)

    def has_leased(self, master: LocalNode) -> bool:
        """Tell whether the latest lease of a master was on this server."""
        latest = next((lease for lease in reversed(self.leases) if not lease.read_only), None)
        return latest is not None and latest.port == master.port

    async def _lose_session(self) -> None:
        until = time.monotonic() + LONGEST
        while time.monotonic() < until:
            try:
                async with self.manager.acquire(read_only=False) as connection:
                    for _ in range(100):  # the answer may come before the end
                        await self.kit.value(connection, _END_OWN_SESSION)
            except self.kit.lost:
                return
            except NotAvailableError as error:
                self._failed(error)
        raise AssertionError("a session did not end that was ended")

    async def _repeat(self, *, read_only: bool) -> None:
        while not self._stopping:
            began = time.monotonic()
            try:
                async with self.manager.acquire(read_only) as connection:
                    at = time.monotonic()
                    answer = await self.kit.value(connection, _QUESTION)
                port, pid, in_recovery = answer.split()
                now = time.monotonic()
                self.leases.append(
                    Lease(read_only, int(port), int(pid), in_recovery == "t", at, now)
                )
            # Catch everything: psycopg raises an InternalError if a pooler loses its server during
            # BEGIN. If the load did not go on, there would be fewer leases to judge, unnoticed.
            except Exception as error:  # noqa: BLE001
                self._failed(error)
            self.hangs.append(time.monotonic() - began)
            await self._workers.rest(self._pause)

    def _failed(self, error: Exception) -> None:
        self.errors.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
