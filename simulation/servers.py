"""Servers: the fake servers of the tests, with time, chance, faults and a history."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from simulation.connections import Connection, Disturbance
from simulation.histories import ServerWithHistory
from testbed.fake_driver import FakeConnection, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hasql.cluster.host import HostSpec
    from simulation.attempts import Ledger
    from simulation.knowledge import Knowledge
    from simulation.record import Record

__all__ = ("Server",)

#: Seconds from the end of a process to the closing of its last socket.
_SOCKETS_CLOSE = 0.022
#: Seconds of silence after which hasql aborts leases by default, less one second for noticing it.
_ABORT_AFTER = 9.0


class Server(ServerWithHistory):
    """A server that can be killed, frozen, promoted and rejoined, and whose answers take time."""

    connections: list[FakeConnection]

    def __init__(
        self, host: HostSpec, record: Record, ledger: Ledger, chance: Random, *, master: bool
    ) -> None:
        super().__init__(host, record, ledger, chance, master=master)
        #: Since when it has been undisturbed, as long as it serves.
        self.calm_since = record.clock.now
        #: When its processes last ended.
        self.ended_at = float("-inf")
        #: Whether it was ever silent, so that statements may have waited for it in vain.
        self.was_silent = False
        #: The SQLSTATE that it sends to clients that wait for a COMMIT when it goes down; empty if
        #: it sends nothing.
        self.last_words = ""

    @property
    def serves(self) -> bool:
        """Whether it would accept and answer a new connection."""
        return self.alive and not self.frozen and self.login_error is None

    @property
    def silent(self) -> bool:
        """Whether it has been silent for so long that hasql must abort its leases."""
        return self.frozen and self._record.clock.now - self.calm_since > _ABORT_AFTER

    def happens(self, what: str) -> Disturbance:
        self.calm_since = self._record.clock.now
        self._record.note(self, what)
        return Disturbance(f"{what} {self} at {self.calm_since:.6f}")

    # What happens to the server

    def kill(self) -> None:
        self._end("is killed")
        self.alive = False

    def _end(self, what: str, *, at_once: bool = False) -> None:
        """End the processes. Their sockets close one by one, all of them before a new start."""
        why = self.happens(what)
        self.ended_at = self.calm_since
        self._stop(self._chance.choice([0.0, 1.0, self._chance.random()]))
        super().thaw()
        loop = asyncio.get_running_loop()
        for connection in tuple(self.connections):
            assert isinstance(connection, Connection)
            if at_once:
                connection.end(why)
            else:
                loop.call_later(self._chance.uniform(0.0, _SOCKETS_CLOSE), connection.end, why)

    def start(self, *, master: bool) -> None:
        """Start or restart it in the given role; a former standby has nothing to recover."""
        crashed = self.master
        self._end(f"starts as a {'master' if master else 'replica'}", at_once=True)
        self.alive, self.master, self.login_error = True, master, None
        self.started_at = self.now()
        self._up_since = self._clock()
        self._start(master=master, crashed=crashed)

    def crash_a_backend(self) -> None:
        """End all its processes except the postmaster, until it recovers."""
        self.refuse_logins("57P03")
        self._end("has a crash", at_once=True)

    def recover(self) -> None:
        """Recover from the crash of a backend."""
        self.refuse_logins(None)
        self._start(master=self.master, crashed=True)

    def freeze(self) -> None:
        self.happens("is frozen")
        self.was_silent = True
        super().freeze()

    def thaw(self) -> None:
        self.happens("is thawed")
        super().thaw()

    def promote_to(self, timeline: int) -> None:
        self.happens(f"is promoted to timeline {timeline}, at {self.wal.end}")
        self._begin_timeline(timeline)

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

    def unheard(self) -> None:
        """Lose its answers on all existing connections, until the connections are dropped."""
        self._record.note(self, "is not heard")
        for connection in self.connections:
            assert isinstance(connection, Connection)
            connection.unheard = connection.on_lost is None

    def write_others(self, count: int) -> None:
        """Let other clients write, which uses transaction ids: some commit, some do not end."""
        for _ in range(count):
            xid = self.wal.begin("others")
            self._ledger.gives(xid)
            if self._chance.random() < 0.7:
                self.wal.write_end(xid, commit=True)
                self.wal.finish(xid)
        if not self.in_a_hurry:
            self._flush(self.wal.end)

    def deafen(self, *, reserved: bool) -> None:
        """Silence some connections, like a firewall that has forgotten them."""
        self._record.note(self, f"has deaf {'reserved' if reserved else 'pooled'} connections")
        for connection in self.connections:
            assert isinstance(connection, Connection)
            is_reserved = connection.on_lost is not None
            connection.deaf |= is_reserved is reserved and self._chance.random() < 0.5

    # The answers of the server

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

    def ask(
        self, connection: Connection, answer: asyncio.Future[Any], does: Callable[[], object]
    ) -> None:
        """Do something a little later, and answer with its result."""
        self._for(connection, self._delay(), self._arrived, answer, does)

    def _arrived(
        self, connection: Connection, answer: asyncio.Future[Any], does: Callable[[], object]
    ) -> None:
        if answer.done() or connection.closed or connection.deaf:
            return  # no one waits for it, or the connection is being lost, or the request is lost
        try:
            heard = does()
        except ServerError as error:
            heard = error
        connection.hear(answer, heard)
