"""Transactions of the fake drivers, whose steps a test can script."""

from __future__ import annotations

from inspect import isawaitable
from typing import TYPE_CHECKING

from hasql.driver.transactions import TaskTransaction, ThreadTransaction, TransactionState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hasql.driver.transactions import TransactionModes
    from testbed.fake_driver import FakeConnection
    from testbed.fake_threads import ThreadConnection

__all__ = ("FakeThreadTransaction", "FakeTransaction")


class _Steps:
    """The part that both transactions have in common."""

    state = TransactionState.NOT_BEGUN

    def __init__(self, connection: FakeConnection, modes: TransactionModes) -> None:
        self.connection = connection
        self.modes = modes
        connection.transaction = self

    @property
    def _script(self) -> dict[str, Callable[[FakeConnection], object]]:
        return self.connection.server.script

    def step(self, name: str) -> object:
        """Do what a test has scripted for a step; return what a task has to await then."""
        return self._script[name](self.connection) if name in self._script else None

    def row(self) -> Sequence[str | None]:
        """Answer the query that is made before COMMIT."""
        if self.state is TransactionState.FAILED:
            from testbed.fake_driver import ServerError  # it imports this module

            raise ServerError("25P02")
        return self.connection.server.mark_row()

    def end(self, tag: str) -> bool:
        """Handle the answer to COMMIT or ROLLBACK."""
        done = tag == "COMMIT" and self.state is not TransactionState.FAILED
        self.state = TransactionState.ENDED
        self.connection.server.ended.append("COMMIT" if done else "ROLLBACK")
        return done


class FakeTransaction(_Steps, TaskTransaction):
    """The transaction of a task."""

    async def begin(self) -> None:
        await self.connection.run()
        self.step("begin")
        self.state = TransactionState.OPEN

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        del sql
        await self.connection.run()
        self.step("mark")
        return self.row()

    async def commit(self) -> bool:
        await self.connection.run()
        if isawaitable(more := self.step("commit")):
            await more
        return self.end("COMMIT")

    async def roll_back(self) -> None:
        if self.state is not TransactionState.ENDED:
            await self.connection.run()
            self.step("rollback")
            self.end("ROLLBACK")


class FakeThreadTransaction(_Steps, ThreadTransaction):
    """The transaction of a thread."""

    connection: ThreadConnection

    def begin(self) -> None:
        self.connection.use()
        self.step("begin")
        self.state = TransactionState.OPEN

    def fetch_row(self, sql: str) -> Sequence[str | None]:
        del sql
        self.connection.use()
        self.step("mark")
        return self.row()

    def commit(self) -> bool:
        self.connection.use()
        self.step("commit")
        return self.end("COMMIT")

    def roll_back(self) -> None:
        if self.state is not TransactionState.ENDED:
            self.connection.use()
            self.step("rollback")
            self.end("ROLLBACK")
