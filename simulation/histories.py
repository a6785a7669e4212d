"""What a simulated server does with its log: transactions, replication, and reports about it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from simulation.wal import Wal
from testbed.fake_driver import FakeServer, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from hasql.cluster.host import HostSpec
    from hasql.cluster.probe import ProbeForm
    from simulation.attempts import Ledger
    from simulation.connections import Connection
    from simulation.record import Record
    from simulation.wal import Entry

__all__ = ("BALANCE", "WITHDRAWN", "ServerWithHistory")

#: The initial balance of the account, and the amount that a unit of work withdraws.
BALANCE, WITHDRAWN = 100_000, 10


class ServerWithHistory(FakeServer):
    """A server that writes a log, or receives that of another server."""

    def __init__(
        self, host: HostSpec, record: Record, ledger: Ledger, chance: Random, *, master: bool
    ) -> None:
        super().__init__(host, master=master, clock=record.clock)
        self._record = record
        self._ledger = ledger
        self._chance = chance
        #: The other servers of its cluster.
        self.others: Sequence[ServerWithHistory] = ()
        self.set_clock(chance.uniform(0.0, 1e-3))
        #: A number that changes whenever the server's processes end.
        self.life = 1
        self.wal = Wal(self.now)
        self.round_trip = 0.0005
        #: Seconds that a flush takes, and that an entry takes to arrive here as a standby.
        self.flushing, self.lag = 0.0005, 0.001
        #: Whether it answers a COMMIT before it has flushed it, and whether it delays the answer
        #: until a standby has received it.
        self.in_a_hurry = self.waits_for_standbys = False
        #: Whether, as a standby, it reports at once which timeline it receives.
        self.tells_all = False
        #: Whether it tells the truth about what is flushed.
        self.honest = True
        #: The server that it receives from as a standby.
        self.upstream: ServerWithHistory | None = None
        self._attachment = 0
        #: Commits that wait for a standby: where they end in the log, and what to answer.
        self._unreceived: list[tuple[int, Connection, asyncio.Future[Any]]] = []
        #: The connection that has locked the account's row, and those that wait for it.
        self._row_of: Connection | None = None
        self._want_row: list[tuple[Connection, asyncio.Future[Any]]] = []
        #: The actions that are postponed until it is thawed.
        self._held: list[tuple[int, Callable[..., object], tuple[Any, ...]]] = []
        #: Called with each step of a commit.
        self.on_step: Callable[[str], object] = lambda _: None

    def __str__(self) -> str:
        return self.host.host

    def knows(self, others: Sequence[ServerWithHistory]) -> None:
        """Set the other servers of its cluster."""
        self.others = others
        self.set_clock(self._ahead)

    def set_clock(self, ahead: float) -> None:
        """Set its clock `ahead` seconds ahead, or slightly more, to distinguish it from others.

        The core takes two servers that report the same start time for one server.
        """
        self._ahead = ahead
        while (started_at := self.now()) in {other.started_at for other in self.others}:
            self._ahead += 1e-6
        self.started_at = started_at

    def now(self) -> int:
        """Return the time of its clock, in microseconds."""
        return round((self._record.clock.now + self._ahead) * 1e6)

    def _later(self, delay: float, act: Callable[..., object], *args: object) -> None:
        """Do something a little later, if the server is still alive then."""
        asyncio.get_running_loop().call_later(delay, self._act, self.life, act, args)

    def _for(
        self, connection: Connection, delay: float, act: Callable[..., object], *args: object
    ) -> None:
        """Do something a little later for a connection, if its process is still alive then."""
        loop = asyncio.get_running_loop()
        loop.call_later(delay, self._act, connection.born, act, (connection, *args))

    def _act(self, life: int, act: Callable[..., object], args: tuple[Any, ...]) -> None:
        if life != self.life or not self.alive:
            return
        if self.frozen:
            self._held.append((life, act, args))
        else:
            act(*args)

    def thaw(self) -> None:
        super().thaw()
        held, self._held = self._held, []
        for life, act, args in held:
            asyncio.get_running_loop().call_later(self._delay(), self._act, life, act, args)

    def _delay(self) -> float:
        return self.round_trip * self._chance.uniform(0.7, 2.0)

    # Its life

    def _stop(self, lost: float) -> None:
        """End its processes; a share `lost` of the unflushed log is lost."""
        self.life += 1
        self.wal.crash(lost)
        self._unreceived.clear()
        self._want_row.clear()
        self._row_of = None
        self._held.clear()

    def _start(self, *, master: bool, crashed: bool) -> None:
        self.wal.start(master=master, crashed=crashed)
        self.upstream = None
        self._attachment += 1
        if master:
            self.timeline = self.wal.timeline
            self._ship()

    def _begin_timeline(self, timeline: int) -> None:
        self.upstream = None
        self._attachment += 1
        self.wal.promote(timeline)
        self.master, self.timeline = True, timeline

    # As a standby

    def follow(self, upstream: ServerWithHistory, *, rewinds: bool) -> None:
        """Receive the log of another server; if the histories differ, only after a rewind."""
        self._attachment += 1
        self.upstream = upstream if rewinds or self.wal.is_part_of(upstream.wal) else None
        if self.upstream is None:
            return
        if not self.wal.is_part_of(upstream.wal):
            self.wal.rewind(upstream.wal)
            self.wal.start(master=False, crashed=False)
        self._tell(upstream)
        self._receive_later(upstream)

    def _ship(self) -> None:
        for other in self.others:
            if other.upstream is self:
                other._receive_later(self)  # its own class

    def _receive_later(self, source: ServerWithHistory) -> None:
        # The entries sent by now may still be on their way when the other server dies.
        log = source.wal
        if log.flushed <= self.wal.end:
            return
        self._later(
            self.lag * self._chance.uniform(0.3, 1.7),
            self._receive, source, self._attachment, log.entries, log.flushed,
        )  # fmt: skip

    def _receive(
        self, source: ServerWithHistory, attachment: int, entries: Sequence[Entry], end: int
    ) -> None:
        if attachment == self._attachment and end > self.wal.end:
            self.wal.receive(entries, end)
            self._tell(source)

    def _tell(self, source: ServerWithHistory) -> None:
        """Tell the server that it receives from how far it has come."""
        if source._unreceived:  # as above
            source._later(0.0, source._received, self.wal.end)  # as above

    def _received(self, end: int) -> None:
        waiting, self._unreceived = self._unreceived, []
        for each in waiting:
            if each[0] <= end:
                self._done(*each[1:])
            else:
                self._unreceived.append(each)

    # Transactions

    def begin(self, connection: Connection) -> None:
        """Begin a transaction."""
        if connection.in_transaction:
            self._record.violated(self, "is to begin a transaction within another")
        connection.in_transaction, connection.failed = True, False
        connection.attempt = connection.xid = connection.balance = None

    def execute(
        self,
        connection: Connection,
        *,
        write: bool,
        fails: bool = False,
        balance: int | None = None,
    ) -> None:
        """Run a statement, inside or outside of a transaction. Raises ServerError."""
        if connection.failed:
            raise ServerError("25P02")
        if fails or (write and not self.master):
            connection.failed = connection.in_transaction
            raise ServerError("22012" if fails else "25006")
        if not write:
            return
        if connection.xid is None:
            owner = connection.attempt if connection.in_transaction else connection.holder
            connection.xid = self.wal.begin(owner)
            self._ledger.gives(connection.xid)
        if balance is not None:
            connection.balance = balance
        if not connection.in_transaction:
            end = self.wal.write_end(connection.xid, commit=True)
            self._finish(connection)
            self._flush(end)

    def mark(self, connection: Connection) -> Sequence[str | None]:
        """Answer the query that is made before COMMIT. Raises ServerError."""
        if connection.failed:
            raise ServerError("25P02")
        self.on_step("mark")
        if connection.xid is None:
            return (None,) * 8
        wal = self.wal
        if connection.attempt is not None:
            self._ledger.marks(self, connection.attempt, connection.xid)
        wal_file = f"{self.timeline:08X}0000000000000001"
        position, (flushed, recovered_to, *_) = wal.position(wal.end), self.history
        row = connection.xid, position, flushed, wal_file, self.system_id, self.started_at
        return [None if x is None else str(x) for x in (*row, recovered_to, self.now())]

    def ask_to_commit(self, connection: Connection, answer: asyncio.Future[Any]) -> None:
        """Commit a little later, and answer when that is done."""
        # A COMMIT that is on its way may arrive even if its client has gone.
        posted = not connection.deaf and self._chance.random() < 0.5
        self.on_step("sent")
        self._for(connection, self._delay(), self._commit, answer, posted)

    def _commit(self, connection: Connection, answer: asyncio.Future[Any], posted: bool) -> None:  # noqa: FBT001  # handed through
        if connection.closed and not (posted and connection.in_transaction):
            return
        attempt, xid, failed = connection.attempt, connection.xid, connection.failed
        if failed or xid is None:
            self._end_transaction(connection)
            self._answer(connection, answer, not failed)
            return
        connection.committing = True
        if attempt is not None:
            self._ledger.commits(self, attempt)
        if connection.balance is not None:
            self._check_account(connection)
        end = self.wal.write_end(xid, commit=True, balance=connection.balance)
        self.on_step("written")
        takes = self.flushing * self._chance.uniform(0.5, 2.0)
        if self.in_a_hurry:
            self._later(takes, self._flush, end)
            self._done(connection, answer)
        else:
            self._for(connection, takes, self._flushed, answer, end)

    def _flushed(self, connection: Connection, answer: asyncio.Future[Any], end: int) -> None:
        self._flush(end)
        self.on_step("flushed")
        received = (x.wal.end for x in self.others if x.upstream is self)
        if self.waits_for_standbys and end > max(received, default=0):
            self._unreceived.append((end, connection, answer))
        else:
            self._done(connection, answer)

    def _flush(self, end: int) -> None:
        if end > self.wal.flushed:
            self.wal.flush(end)
            self._ship()

    def _done(self, connection: Connection, answer: asyncio.Future[Any]) -> None:
        self._finish(connection)
        self.on_step("done")
        self._answer(connection, answer, True)  # noqa: FBT003  # the answer to COMMIT

    def _answer(self, connection: Connection, answer: asyncio.Future[Any], what: object) -> None:
        """Send an answer, which arrives even if the server dies now, unless the socket closes."""
        asyncio.get_running_loop().call_later(self._delay() / 2, connection.hear, answer, what)

    def roll_back(self, connection: Connection) -> None:
        """Roll back the open transaction, if there is one."""
        self._end_transaction(connection)

    def hung_up(self, connection: Connection) -> None:
        """Learn, a little later, that the client has closed a connection."""
        # After everything that is still on its way.
        self._for(connection, 2 * self.round_trip, self._end_transaction)

    def _end_transaction(self, connection: Connection) -> None:
        """Roll back the open transaction, unless it is already committing."""
        if connection.committing or not connection.in_transaction:
            return
        if connection.xid is not None:
            self.wal.write_end(connection.xid, commit=False)
        self._finish(connection)

    def _finish(self, connection: Connection) -> None:
        """Make the end of a transaction visible to all."""
        if connection.xid is not None:
            self.wal.finish(connection.xid)
        connection.in_transaction = connection.committing = connection.failed = False
        connection.xid = connection.balance = None
        if self._row_of is connection:
            self._row_of = None
            waiting, self._want_row = self._want_row, []
            for each in waiting:
                self._give_row(*each)

    # The account: one row that a unit of work locks

    def account(self) -> int:
        """Return the balance of the account, as this server has it."""
        found = self.wal.balance()
        return BALANCE if found is None else found

    def ask_for_account(self, connection: Connection, answer: asyncio.Future[Any]) -> None:
        """Read the account FOR UPDATE."""
        self._for(connection, self._delay(), self._give_row, answer)

    def _give_row(self, connection: Connection, answer: asyncio.Future[Any]) -> None:
        if connection.closed or not connection.in_transaction:
            return
        if not self.master:
            connection.failed = True
            self._answer(connection, answer, ServerError("25006"))
        elif self._row_of not in {None, connection}:
            self._want_row.append((connection, answer))
        else:
            self._row_of = connection
            self._answer(connection, answer, self.account())

    def _check_account(self, connection: Connection) -> None:
        if connection.balance != self.account() - WITHDRAWN:
            what = f"sets to {connection.balance} what is {self.account()}: an update is lost"
            self._record.violated(connection.attempt and connection.attempt.unit, what)

    # What the server reports about itself

    def status(self, xid: int) -> str | None:
        self._ledger.asked(self, xid)
        return self.wal.status(xid)

    def row(self, form: ProbeForm, pid: int) -> Sequence[object]:
        self.position = self.wal.position(self.wal.end)
        return super().row(form, pid)

    @property
    def history(self) -> tuple[int | None, int | None, bool | None, int | None, int | None]:
        wal = self.wal
        if not self.master:
            receives = self.tells_all and self.upstream is not None and self.upstream.alive
            return None, None, None, None, wal.timeline if receives else wal.on_disk
        recovered_to = None if wal.recovered is None else wal.position(wal.recovered)
        flushed = wal.position(wal.flushed if self.honest else wal.end + 10)
        return flushed, recovered_to, wal.was_standby, wal.last_replayed, None
