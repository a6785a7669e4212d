"""An application that gives its work to `run`: no fault that ends in time costs it an error."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from hasql.errors import NotAvailableError, PoolManagerClosedError
from hasql.resilience import RetryPolicy
from simulation.applications import Task

if TYPE_CHECKING:
    from simulation.servers import Connection
    from testbed.fake_driver import FakeConnection

__all__ = ("UnitsOfWork",)

_SECONDS = 30.0
#: More than any story has faults. A pause is short, so that the stories have many runs.
_POLICY = RetryPolicy(attempts=1000, seconds=_SECONDS, longest=0.5)


class UnitsOfWork(Task):
    """A task that does one run after the other, some of which are cancelled."""

    async def use(self, kind: str) -> None:
        reads = kind != "master"
        began = self.record.clock.now

        async def work(lent: FakeConnection) -> None:
            connection: Connection = lent  # type: ignore[assignment]  # one of these servers'
            if connection.holder is not None:
                self.record.violated(self, f"was given what {connection.holder} has")
            connection.holder, connection.writes = self, not reads
            try:
                for _ in range(self.chance.choice([1, 1, 2])):
                    await connection.run()
            finally:
                connection.holder = None

        try:
            await self.manager.run(work, read_only=reads, retry=_POLICY)
        except NotAvailableError as error:
            self._ended(began, error)
        except ConnectionError as error:
            self._ended(began, error)
        else:
            self.done += 1
            self.record.note(self, "reads by run" if reads else "writes by run")

    def _ended(self, began: float, error: Exception) -> None:
        """Check that a run has used up its time before it has raised what a host's end causes."""
        self.failed += 1
        self.record.note(self, f"has a run that fails: {error!r}")
        if self.record.clock.now - began < _SECONDS - _POLICY.longest:
            self.record.violated(self, f"has seen {error!r} before its time was used up")

    async def run(self) -> None:
        with suppress(PoolManagerClosedError):
            await super().run()
