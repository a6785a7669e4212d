"""Transactions of units of work on the simulated servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hasql.driver.transactions import TaskTransaction, TransactionState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hasql.driver.transactions import TransactionModes
    from simulation.connections import Connection
    from testbed.fake_driver import FakeConnection

__all__ = ("SimulatedTransaction",)


class SimulatedTransaction(TaskTransaction):
    """A task's transaction, in which each step is a round trip."""

    connection: Connection

    def __init__(self, connection: FakeConnection, modes: TransactionModes) -> None:
        self.connection = connection  # type: ignore[assignment]  # one of these servers'
        self.connection.transaction = self
        self._modes = modes
        self._begun = self._ended = False

    @property
    def state(self) -> TransactionState:
        # Like asyncpg, it does not know whether the transaction has failed.
        if not self._begun:
            return TransactionState.NOT_BEGUN
        return TransactionState.ENDED if self._ended else TransactionState.OPEN

    async def begin(self) -> None:
        connection = self.connection
        await connection.ask(lambda: connection.server.begin(connection))
        self._begun = True

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        del sql
        connection = self.connection
        row: Sequence[str | None] = await connection.ask(lambda: connection.server.mark(connection))
        return row

    async def commit(self) -> bool:
        connection = self.connection
        attempt = connection.attempt
        done = await connection.commit()
        self._ended = True
        if done and attempt is not None:
            attempt.answered = True
        return done

    async def roll_back(self) -> None:
        if not self._ended:
            connection = self.connection
            await connection.ask(lambda: connection.server.roll_back(connection))
            self._ended = True
