"""Units of work as the simulation sees them: the outcome of each attempt.

This account is independent of the core: it looks into the servers' logs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulation.histories import ServerWithHistory
    from simulation.record import Record

__all__ = ("Attempt", "Ledger", "Unit")


@dataclass(eq=False)
class Unit:
    """A unit of work."""

    name: str
    #: Whether the application has said that it may be done twice.
    idempotent: bool = False
    attempts: list[Attempt] = field(default_factory=list)

    def __str__(self) -> str:
        return self.name

    def begin(self) -> Attempt:
        """Start another attempt."""
        self.attempts.append(Attempt(self))
        return self.attempts[-1]

    def times_in(self, server: ServerWithHistory) -> int:
        """Tell how often the unit is done in the history of a server."""
        mine = {*self.attempts}
        return sum(bool(x.committed and x.owner in mine) for x in server.wal.entries)


@dataclass(eq=False)
class Attempt:
    """An attempt at a unit, and where it was about to commit, if it came that far."""

    unit: Unit
    server: ServerWithHistory | None = None
    #: The number of the server's life, between two starts, in which it was.
    life: int = 0
    xid: int = 0
    timeline: int = 0
    #: How many entries the log had right before COMMIT, and how many of them were flushed.
    end: int = 0
    flushed: int = 0
    #: Whether the server itself has told the application that it is committed.
    answered: bool = False
    #: Whether a server that was asked for its id has the commit in its history.
    found: bool = False
    #: Whether the last answer leaves no doubt.
    told: bool = False

    def marks(self, server: ServerWithHistory, xid: int) -> None:
        """Note its place in the log right before COMMIT."""
        wal = server.wal
        self.server, self.life, self.xid = server, server.life, xid
        self.timeline, self.end, self.flushed = wal.timeline, wal.end, wal.flushed

    def must_be_known(self, master: ServerWithHistory) -> bool:
        """Tell whether a master's answer about it leaves no doubt.

        This is a lower bound: if it returns False, hasql may still know the outcome.
        """
        wal, origin = master.wal, self.server
        if origin is None or not master.master or wal.timeline < self.timeline:
            return False
        status = wal.status(self.xid)
        if origin is master and self.life == master.life:
            return status != "in progress"
        if status != "committed":
            return True
        if wal.timeline == self.timeline:
            return origin is master and self.end <= self.flushed
        if not wal.was_standby or wal.recovered is None or wal.recovered <= self.end:
            return wal.was_standby
        return self.timeline == 1 and wal.timeline == _SECOND and self.end <= self.flushed


#: Only one timeline can lead to the second one.
_SECOND = 2


class Ledger:
    """All units of a story, by how they ended for the application."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.returned: list[Unit] = []
        #: Units that the application was told are not done.
        self.refused: list[Unit] = []
        #: Units whose outcome the application was told is unknown, and units that it cancelled.
        self.unknown: list[Unit] = []
        self.cancelled: list[Unit] = []
        #: How many lost answers to commits were found out.
        self.found = 0
        self._given: Counter[int] = Counter()
        self._by_xid: defaultdict[int, list[Attempt]] = defaultdict(list)

    @property
    def reused(self) -> int:
        """How many transaction ids were given to more than one transaction."""
        return sum(times > 1 for times in self._given.values())

    def gives(self, xid: int) -> None:
        """Note that an id was given to a transaction."""
        self._given[xid] += 1

    def marks(self, server: ServerWithHistory, attempt: Attempt, xid: int) -> None:
        """Note an attempt that is about to commit."""
        attempt.marks(server, xid)
        self._by_xid[xid].append(attempt)

    def commits(self, server: ServerWithHistory, attempt: Attempt) -> None:
        """Note that a server commits an attempt."""
        unit = attempt.unit
        if len(unit.attempts) > 1 and not unit.idempotent and unit.times_in(server):
            self._record.violated(unit, f"is done twice on {server}: an outcome was wrong")

    def asked(self, server: ServerWithHistory, xid: int) -> None:
        """Note what a server that is asked for an id has in its history."""
        commit = server.wal.commit_of(xid)
        if commit is not None and isinstance(commit.owner, Attempt):
            commit.owner.found = True
        for attempt in self._by_xid[xid]:
            attempt.told = attempt.must_be_known(server)

    def returns(self, unit: Unit) -> None:
        """Check a unit for which `run` has returned."""
        self.returned.append(unit)
        if not any(x.answered for x in unit.attempts):
            self.found += 1
            if not any(x.found for x in unit.attempts):
                self._record.violated(unit, "is said to be done, and who said so does not have it")

    def check(self, master: ServerWithHistory, *, nothing_is_lost: bool) -> None:
        """Check all units against the history of the last master.

        Args:
            master: The last master.
            nothing_is_lost: Whether it has everything that any master has acknowledged.
        """
        for unit in self.returned:
            times = unit.times_in(master)
            if times > 1 and not unit.idempotent:
                self._record.violated(unit, f"is done {times} times")
            # A commit that was found out after a crash may not have been on a standby yet, and may
            # be lost with the master.
            acknowledged = any(x.answered for x in unit.attempts)
            if not times and nothing_is_lost and acknowledged:
                self._record.violated(unit, "is said to be done, and is not")
        for unit in self.refused:
            if unit.times_in(master):
                self._record.violated(unit, "is said not to be done, and is")
        for unit in (*self.unknown, *self.cancelled):
            if unit.times_in(master) > 1 and not unit.idempotent:
                self._record.violated(unit, "is done twice")
