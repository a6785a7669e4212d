"""An application that gives its work to `run`: no fault that ends in time may cost it an error.

Besides, what `run` says of a commit whose answer was lost must be true: see `Ledger`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hasql.errors import (
    NotAvailableError,
    PoolManagerClosedError,
    RolledBackError,
    StaleReadError,
)
from hasql.resilience import CommitUnknownError, Outcome, RetryPolicy
from hasql.resilience.run_options import run_options
from simulation.applications import Task
from simulation.attempts import Unit
from simulation.connections import LastWordsError
from simulation.histories import WITHDRAWN
from testbed.fake_driver import ServerError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from simulation.connections import Connection

__all__ = ("UnitsOfWork",)

_SECONDS = 30.0
#: More attempts than any story has faults. Pauses are short, so that a story has many runs.
_POLICY = RetryPolicy(attempts=1000, seconds=_SECONDS, longest=0.5)
#: Seconds to allow for rounding.
_ROUNDING = 1e-6


class _MistakeError(Exception):
    """The application's own error."""


class UnitsOfWork(Task):
    """A task that makes one run after the other; some of them are cancelled."""

    policy = _POLICY
    #: The number of units so far.
    number = 0
    #: How many units ended with an unknown outcome.
    unknown = 0

    async def use(self, kind: str) -> None:
        if kind == "master":
            await self.write()
        else:
            await self._read()

    async def _read(self) -> None:
        began = self.record.clock.now

        async def work(connection: Any) -> None:  # one of these servers'
            await self._statements(connection, write=False)

        try:
            await self.manager.run(work, read_only=True, retry=self.policy)
        except (NotAvailableError, ConnectionError) as error:
            self._failed(began, error)
        else:
            self.done += 1
            self.record.note(self, "reads by run")

    async def _statements(self, connection: Connection, *, write: bool) -> None:
        if connection.holder is not None:
            self.record.violated(self, f"was given what {connection.holder} has")
        connection.holder, connection.writes = self, write
        try:
            for _ in range(self.chance.choice([1, 1, 2])):
                await connection.run(write=write)
        finally:
            connection.holder = None

    async def write(self) -> None:
        """Do a unit of work that writes, and record its outcome."""
        self.number += 1
        unit = Unit(f"{self.name}, unit {self.number}", idempotent=self.chance.random() < 0.1)
        style = self.chance.random()
        if style < 0.1:
            await self._told(unit, self._run(unit, swallows=True), RolledBackError)
        elif style < 0.15:
            await self._told(unit, self._run(unit, raises=True), _MistakeError)
        elif style < 0.4:
            await self._told(unit, self._run_routed(unit))
        else:
            await self._told(unit, self._run(unit))

    async def _run(self, unit: Unit, *, swallows: bool = False, raises: bool = False) -> None:
        async def work(connection: Any) -> None:  # one of these servers'
            connection.attempt = unit.begin()
            await self._statements(connection, write=True)
            if swallows:
                with suppress(ServerError):
                    await connection.execute(fails=True)
            if raises:
                raise _MistakeError

        # Without the query before COMMIT, only the answer to COMMIT tells of an error.
        asks = not swallows or self.chance.random() < 0.5
        await self.manager.run(
            work, retry=self.policy, idempotent=unit.idempotent, resolve_commits=asks
        )

    async def _run_routed(self, unit: Unit) -> None:
        """Withdraw from the account like a session that routes itself: see `SessionRoute`."""
        manager = self.manager
        options = run_options(False, unit.idempotent, self.policy, None, True)  # noqa: FBT003  # in its order
        reads = True

        def first(seconds: float) -> Any:  # a lease
            nonlocal reads
            on_replica, reads = reads, False
            if on_replica:
                return manager.acquire_replica(fallback_master=True, timeout=seconds)
            return manager.acquire_master(timeout=seconds)

        async def work(attempt: Any) -> None:  # the core's
            shown = await attempt.connection.read_account(lock=attempt.may_write)
            if not attempt.may_write:
                await attempt.exchange(lambda seconds: manager.acquire_master(timeout=seconds))
                if await attempt.connection.read_account(lock=True) != shown:
                    raise StaleReadError("the master has another balance than the replica")
            connection = attempt.connection
            connection.attempt = unit.begin()
            await connection.execute(write=True, balance=shown - WITHDRAWN)

        await manager.runs.run(work, options, first, on_attempt=True)

    async def _told(
        self, unit: Unit, run: Awaitable[None], expected: type[Exception] | None = None
    ) -> None:
        """Wait for a run, and record what it says of its unit."""
        ledger, began = self.cluster.ledger, self.record.clock.now
        try:
            await run
        except CommitUnknownError as error:
            await self._check_unknown(unit, error, began)
        except (NotAvailableError, ConnectionError, StaleReadError, LastWordsError) as error:
            ledger.refused.append(unit)
            self._failed(began, error)
        except (RolledBackError, _MistakeError) as error:
            ledger.refused.append(unit)
            self.record.note(unit, f"is not done: {error!r}")
            if expected is None or not isinstance(error, expected):
                self.record.violated(unit, f"has met {error!r}")
        except PoolManagerClosedError:
            ledger.refused.append(unit)
            raise
        except asyncio.CancelledError:
            ledger.cancelled.append(unit)
            raise
        else:
            ledger.returns(unit)
            self.done += 1
            self.record.note(unit, f"is done, in {len(unit.attempts)} attempts")
            if expected is not None:
                self.record.violated(unit, f"is said to be done, and should be {expected}")

    async def _check_unknown(self, unit: Unit, error: CommitUnknownError, began: float) -> None:
        """Check that the outcome could not be known; ask again, as an application may."""
        cluster, attempt = self.cluster, unit.attempts[-1]
        cluster.ledger.unknown.append(unit)
        self.unknown += 1
        self.record.note(unit, f"may be done, or not: {error}")
        in_time = self.record.clock.now - began < self.policy.seconds - _ROUNDING
        if in_time and attempt.told and not (self.manager.closing or unit.idempotent):
            self.record.violated(unit, "is said not to be known, and who was asked has told")
        outcome = await error.outcome(timeout=1.0)
        self.record.note(unit, f"is {outcome}")
        if outcome is Outcome.COMMITTED and not any(x.found for x in unit.attempts):
            self.record.violated(unit, "is said to be done later, and who said so does not have it")
        if outcome is Outcome.ABORTED:
            cluster.ledger.refused.append(unit)

    def _failed(self, began: float, error: Exception) -> None:
        """Check that a run that raised an error caused by a host has used up its time first."""
        self.failed += 1
        self.record.note(self, f"has a run that fails: {error!r}")
        if self.record.clock.now - began < self.policy.seconds - self.policy.longest:
            self.record.violated(self, f"has seen {error!r} before its time was used up")

    async def run(self) -> None:
        with suppress(PoolManagerClosedError):
            await super().run()
