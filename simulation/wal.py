"""The write-ahead log of one server, and what it makes of transactions, crashes and promotions.

As little of PostgreSQL as decides what has become of a commit: what was not flushed is lost in a
crash, what was not received is lost in a promotion, and the ids in it are given away again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ("FIRST_XID", "Entry", "Wal")

FIRST_XID = 100
#: Bytes of one entry; the first does not begin at zero.
_BYTES, _BEGIN = 100, 1000


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """One entry of a log. It is the same object in each log that has received it."""

    timeline: int
    xid: int = 0
    #: Whose transaction it is.
    owner: object = None
    #: Whether that has ended with it: True if it was committed.
    committed: bool | None = None
    #: When it was written, by that server's clock, in microseconds.
    at: int = 0
    #: What the transaction has set the account to.
    balance: int | None = None


class Wal:
    """What one server has written or received, and how it came to it."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self.entries: list[Entry] = []
        #: How many of them no crash loses.
        self.flushed = 0
        #: What is written now, or was received last.
        self.timeline = 1
        #: The transactions that go on, by their ids.
        self.running: dict[int, object] = {}
        #: How many entries there were when the server began to write.
        self.recovered: int | None = None
        self.was_standby = False
        self.last_replayed: int | None = None
        #: The timeline that a standby's files on disk tell of.
        self.on_disk = 1
        self._next_xid = FIRST_XID
        #: How many entries there were at its start.
        self._began_with = 0

    @staticmethod
    def position(entries: int) -> int:
        """Return where so many entries end, in bytes."""
        return _BEGIN + _BYTES * entries

    @property
    def end(self) -> int:
        """The number of its entries."""
        return len(self.entries)

    # What a master does

    def begin(self, owner: object) -> int:
        """Give a transaction an id, as it writes."""
        xid, self._next_xid = self._next_xid, self._next_xid + 1
        self.running[xid] = owner
        self.entries.append(Entry(self.timeline, xid, owner))
        return xid

    def write_end(self, xid: int, *, commit: bool, balance: int | None = None) -> int:
        """Write the end of a transaction, which goes on until `finish`; return where it ends."""
        owner, at = self.running[xid], self._now()
        self.entries.append(Entry(self.timeline, xid, owner, commit, at, balance))
        return self.end

    def finish(self, xid: int) -> None:
        """Have everybody see that a transaction has ended."""
        self.running.pop(xid, None)

    def flush(self, end: int) -> None:
        """Flush up to there, if that is there still."""
        self.flushed = max(self.flushed, min(end, self.end))

    def status(self, xid: int) -> str:
        """Say what `pg_xact_status` does, or that it is in progress, as who asks puts it."""
        if xid in self.running or xid >= self._next_xid:
            return "in progress"
        return "aborted" if self.commit_of(xid) is None else "committed"

    def commit_of(self, xid: int) -> Entry | None:
        """Return the commit of an id, whoever has it here."""
        return next((x for x in self.entries if x.xid == xid and x.committed), None)

    def balance(self) -> int | None:
        """Return what the account was last set to."""
        ended = (x.balance for x in reversed(self.entries) if x.committed)
        return next((x for x in ended if x is not None), None)

    # What happens to it

    def crash(self, lost: float) -> None:
        """Lose some of what was not flushed: all of it with 1.0."""
        kept = self.end - round(lost * (self.end - self.flushed))
        self.entries = self.entries[:kept]  # others may still read the old list

    def start(self, *, master: bool, crashed: bool) -> None:
        """Recover, as a master that has crashed or was stopped, or as a standby."""
        self.running.clear()
        self.flushed = self._began_with = self.end
        self._set_next_xid()
        self.was_standby, self.last_replayed, self.recovered = False, None, None
        if self.entries:
            self.on_disk = self.timeline = self.entries[-1].timeline
        if master:
            self.recovered = self.end if crashed else None
            self._write_checkpoint()

    def promote(self, timeline: int) -> None:
        """Begin a timeline here."""
        replayed = [x.at for x in self.entries[self._began_with :] if x.committed is not None]
        self.recovered, self.was_standby = self.end, True
        self.last_replayed = replayed[-1] if replayed else None
        self.timeline = timeline
        self._set_next_xid()
        self._write_checkpoint()

    def _set_next_xid(self) -> None:
        self._next_xid = max([FIRST_XID - 1, *(x.xid for x in self.entries)]) + 1

    def _write_checkpoint(self) -> None:
        self.entries.append(Entry(self.timeline))
        self.flushed = self.end

    def receive(self, entries: Sequence[Entry], end: int) -> None:
        """Take over what another has, up to there."""
        self.entries += entries[self.end : end]
        self.flushed = self.end
        if self.entries:
            self.timeline = self.entries[-1].timeline

    def is_part_of(self, other: Wal) -> bool:
        """Tell whether another log goes on where this one ends."""
        end = self.end
        return end <= other.end and (not end or other.entries[end - 1] is self.entries[end - 1])

    def rewind(self, other: Wal) -> None:
        """Give up what another log has not, as pg_rewind does, and take what it has."""
        self.entries = other.entries[: other.flushed]
