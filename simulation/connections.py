"""The connections of the simulated servers: statements take their time, and may be lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from testbed.fake_driver import FakeConnection, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulation.attempts import Attempt
    from simulation.knowledge import Knowledge
    from simulation.servers import Server

__all__ = ("Connection", "Disturbance", "LastWordsError")


class LastWordsError(ServerError):
    """A server's answer to a COMMIT when it goes down, with a code that does not say so."""


@dataclass(frozen=True, eq=False)
class Disturbance:
    """Something that ends connections, and may cost each task one error."""

    what: str


class Connection(FakeConnection):
    """A connection, or a monitor's session; its statements take their time and may be lost."""

    server: Server

    def __init__(self, server: Server, knowledge: Knowledge) -> None:
        super().__init__(server)
        self._knowledge = knowledge
        self._waiting: list[asyncio.Future[Any]] = []
        self.born = server.life
        self.opened_at = knowledge.record.clock.now
        #: Whether the network silently drops everything that is sent on it.
        self.deaf = False
        #: Whether the network drops everything that the server sends on it from now on.
        self.unheard = False
        #: The disturbance that has ended it; None if hasql itself has.
        self.ended_by: Disturbance | None = None
        #: Whether hasql had a reason to end it, if it did.
        self.was_to_be_ended = False
        #: The task that holds it, and whether a master was asked for.
        self.holder: object = None
        self.writes = False
        #: The attempt whose transaction is open, and what the server knows of the transaction: its
        #: id once it has written, the new balance of the account, whether a statement has failed,
        #: and whether it is already committing.
        self.attempt: Attempt | None = None
        self.in_transaction = False
        self.xid: int | None = None
        self.balance: int | None = None
        self.failed = False
        self.committing = False

    async def run(self, *, write: bool = False) -> None:
        await self.execute(write=write)

    async def execute(
        self, *, write: bool = False, fails: bool = False, balance: int | None = None
    ) -> None:
        """Run a statement; raises ConnectionResetError, or ServerError for a write on a standby."""
        server = self.server
        await self.ask(lambda: server.execute(self, write=write, fails=fails, balance=balance))

    async def ask(self, does: Callable[[], object]) -> Any:  # of any type
        """Make the server do something, and return its answer."""
        return await self._hear(lambda answer: self.server.ask(self, answer, does))

    async def commit(self) -> bool:
        """Make the server commit; tell whether it has committed."""
        done: bool = await self._hear(lambda answer: self.server.ask_to_commit(self, answer))
        return done

    async def read_account(self, *, lock: bool) -> int:
        """Read the account, maybe FOR UPDATE."""
        server = self.server
        if not lock:
            return int(await self.ask(server.account))
        return int(await self._hear(lambda answer: server.ask_for_account(self, answer)))

    async def _hear(self, send: Callable[[asyncio.Future[Any]], None]) -> Any:
        if self.closed:
            raise ConnectionResetError("the connection is closed")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        send(answer)
        try:
            heard = await answer
        finally:
            self._waiting.remove(answer)
        if isinstance(heard, Exception):
            raise heard
        return heard

    def hear(self, answer: asyncio.Future[Any], what: object) -> None:
        """Receive an answer; from then on hasql knows it."""
        if answer.done() or self.closed or self.deaf or self.unheard:
            return
        self._flag = not self.server.master
        if self.writes and self.holder is not None and self._knowledge.replaced(self.server):
            self._knowledge.record.violated(
                self.holder, f"{self.server} has answered a lease, and is known to be replaced"
            )
        answer.set_result(what)

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        self._knowledge.asks(self.server)
        try:
            row = await super().fetch_row(sql)
        finally:
            self._knowledge.unanswered.pop(self.server.host, None)
        self._knowledge.told(self.server, whole=len(row) > 1)
        return row

    def end(self, why: Disturbance) -> None:
        """Lose the connection to something outside of hasql."""
        if not self.closed:
            self.ended_by = why
            self.lose()

    def lose(self) -> None:
        if self.closed:
            return
        if self.ended_by is None:
            server = self.server
            dead = self.born != server.life or not server.alive
            self.was_to_be_ended = (
                dead or server.silent or self._knowledge.replaced(server, just_now=True)
            )
        super().lose()
        for answer in self._waiting:
            if not answer.done():
                answer.set_result(self._last_words())
        if self.in_transaction:
            self.server.hung_up(self)

    def _last_words(self) -> Exception:
        """Return the error that a waiting statement gets when the connection ends."""
        code, unheard = self.server.last_words, self.deaf or self.unheard
        if code and self.committing and self.ended_by is not None and not unheard:
            return LastWordsError(code)
        return ConnectionResetError("the connection was lost")
