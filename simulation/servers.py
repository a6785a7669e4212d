"""Servers and their connections: the fake ones of the tests, with time, chance and trouble."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from testbed.fake_driver import FakeConnection, FakeServer, ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from hasql.cluster.host import HostSpec
    from simulation.knowledge import Knowledge
    from simulation.record import Record

__all__ = ("Connection", "Disturbance", "Server")

#: Seconds from the end of a process to that of its last socket.
_SOCKETS_CLOSE = 0.022
#: Seconds of silence after which hasql breaks leases by default, one less for when it was noticed.
_ABORT_AFTER = 9.0


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
        self._waiting: list[asyncio.Future[Exception | None]] = []
        self.born = server.started_at
        self.opened_at = knowledge.record.clock.now
        #: Whether somebody on the way drops all that is said on it, and tells nobody.
        self.deaf = False
        #: What has ended it; None: hasql itself.
        self.ended_by: Disturbance | None = None
        #: Whether hasql had a reason to end it, if it has.
        self.was_to_be_ended = False
        #: Who has it, and whether it was asked of a master.
        self.holder: object = None
        self.writes = False

    async def run(self, *, write: bool = False) -> None:
        await self.execute(write=write)

    async def execute(self, *, write: bool = False) -> None:
        """Run a statement; raises ConnectionResetError, or ServerError for a write on a standby."""
        if self.closed:
            raise ConnectionResetError("the connection is closed")
        answer: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self.server.ask(self, answer, write=write)
        try:
            refusal = await answer
        finally:
            self._waiting.remove(answer)
        if refusal is not None:
            raise refusal

    def answered(self) -> None:
        """Take over what comes with each answer, and be held to what hasql knows."""
        self._flag = not self.server.master
        if self.writes and self.holder is not None and self._knowledge.replaced(self.server):
            self._knowledge.record.violated(
                self.holder, f"{self.server} has answered a lease, and is known to be replaced"
            )

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
        if not self.closed and self.ended_by is None:
            server = self.server
            dead = self.born != server.started_at or not server.alive
            self.was_to_be_ended = (
                dead or server.silent or self._knowledge.replaced(server, just_now=True)
            )
        super().lose()
        for answer in self._waiting:
            if not answer.done():
                answer.set_result(ConnectionResetError("the connection was lost"))


class Server(FakeServer):
    """A server that can be killed, frozen, promoted and rejoined, and takes its time."""

    connections: list[FakeConnection]

    def __init__(self, host: HostSpec, record: Record, chance: Random, *, master: bool) -> None:
        super().__init__(host, master=master, clock=record.clock)
        self._record = record
        self._chance = chance
        self.round_trip = 0.0005
        self._unanswered: list[tuple[Connection, asyncio.Future[Any], bool]] = []
        #: Since when nothing has happened to it, as long as it serves.
        self.calm_since = record.clock.now
        #: Whether it was ever silent, so that statements there may have been waited for in vain.
        self.was_silent = False

    def __str__(self) -> str:
        return self.host.host

    @property
    def serves(self) -> bool:
        """Whether it would take and answer a new connection."""
        return self.alive and not self.frozen and self.login_error is None

    @property
    def silent(self) -> bool:
        """Whether it has been silent for so long that its leases are to be broken."""
        return self.frozen and self._record.clock.now - self.calm_since > _ABORT_AFTER

    def happens(self, what: str) -> Disturbance:
        self.calm_since = self._record.clock.now
        self._record.note(self, what)
        return Disturbance(f"{what} {self} at {self.calm_since:.6f}")

    # What is done to it

    def kill(self) -> None:
        self._end("is killed")
        self.alive = False

    def _end(self, what: str, *, at_once: bool = False) -> None:
        """End the process. Its sockets close one after the other, and all before it starts anew."""
        why = self.happens(what)
        super().thaw()
        self._unanswered.clear()
        loop = asyncio.get_running_loop()
        for connection in tuple(self.connections):
            assert isinstance(connection, Connection)
            if at_once:
                connection.end(why)
            else:
                loop.call_later(self._chance.uniform(0.0, _SOCKETS_CLOSE), connection.end, why)

    def start(self, *, master: bool) -> None:
        """Start it, or start it anew, as this."""
        self._end(f"starts as a {'master' if master else 'replica'}", at_once=True)
        self.alive, self.master, self.login_error = True, master, None
        self.started_at = next(self._starts)
        self._up_since = self._clock()

    def freeze(self) -> None:
        self.happens("is frozen")
        self.was_silent = True
        super().freeze()

    def thaw(self) -> None:
        self.happens("is thawed")
        super().thaw()
        unanswered, self._unanswered = self._unanswered, []
        for question in unanswered:
            self._ask(*question)

    def promote_to(self, timeline: int) -> None:
        self.happens(f"is promoted to timeline {timeline}")
        self.master, self.timeline = True, timeline

    def refuse_logins(self, sqlstate: str | None) -> None:
        self.happens(f"refuses logins: {sqlstate}" if sqlstate else "takes logins")
        self.login_error = None if sqlstate is None else ServerError(sqlstate)

    def drop(self, *, reserved: bool) -> None:
        """End the reserved connections, or all others, as an administrator or a firewall may."""
        why = self.happens(f"drops its {'reserved' if reserved else 'pooled'} connections")
        for connection in tuple(self.connections):
            assert isinstance(connection, Connection)
            if (connection.on_lost is not None) is reserved:
                connection.end(why)

    def deafen(self, *, reserved: bool) -> None:
        """Have some connections go deaf, as a firewall does that has forgotten them."""
        self._record.note(self, f"has deaf {'reserved' if reserved else 'pooled'} connections")
        for connection in self.connections:
            assert isinstance(connection, Connection)
            is_reserved = connection.on_lost is not None
            connection.deaf |= is_reserved is reserved and self._chance.random() < 0.5

    # What it answers

    async def answer(self) -> None:
        await asyncio.sleep(self._delay())
        while self.frozen:
            await self._thawed.wait()

    async def connect(self, knowledge: Knowledge) -> Connection:
        """Log in."""
        self.logins += 1
        await self.answer()
        if not self.alive:
            raise ConnectionRefusedError(f"connection refused by {self}")
        if self.login_error is not None:
            raise self.login_error
        return Connection(self, knowledge)

    def ask(self, connection: Connection, answer: asyncio.Future[Any], *, write: bool) -> None:
        """Answer a statement a little later."""
        self._ask(connection, answer, write)

    def _ask(self, *question: Any) -> None:
        asyncio.get_running_loop().call_later(self._delay(), self._arrived, *question)

    def _delay(self) -> float:
        return self.round_trip * self._chance.uniform(0.7, 2.0)

    def _arrived(self, connection: Connection, answer: asyncio.Future[Any], write: bool) -> None:  # noqa: FBT001  # handed through
        if answer.done() or connection.closed or connection.born != self.started_at:
            return  # nobody waits, or its loss is on its way
        if not self.alive or connection.deaf:
            return
        if self.frozen:
            self._unanswered.append((connection, answer, write))
            return
        connection.answered()
        refused = write and not self.master
        self.position += write and not refused
        answer.set_result(ServerError("25006") if refused else None)
