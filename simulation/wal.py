"""The write-ahead log of a server, and how transactions, crashes and promotions change it.

It models only the part of PostgreSQL that decides the outcome of a commit: a crash loses what was
not flushed, a promotion loses what was not received, and lost transaction ids are given to other
transactions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ("FIRST_XID", "Entry", "Wal")

FIRST_XID = 100
#: The size of an entry in bytes, and the position of the first entry.
_BYTES, _BEGIN = 100, 1000


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """An entry of a log; all logs that have received it share the same object."""

    timeline: int
    xid: int = 0
    #: The owner of the transaction.
    owner: object = None
    #: True for a commit, False for a rollback, None if the entry does not end the transaction.
    committed: bool | None = None
    #: When it was written, by the writing server's clock, in microseconds.
    at: int = 0
    #: The balance to which the transaction has set the account.
    balance: int | None = None


class Wal:
    """The log that a server has written or received, and its state."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self.entries: list[Entry] = []
        #: How many of the entries are flushed, so that no crash loses them.
        self.flushed = 0
        #: The timeline that is written now, or was received last.
        self.timeline = 1
        #: The owners of running transactions, by transaction id.
        self.running: dict[int, object] = {}
        #: How many entries there were when the server began to write.
        self.recovered: int | None = None
        self.was_standby = False
        self.last_replayed: int | None = None
        #: The timeline that a standby's files on disk show.
        self.on_disk = 1
        self._next_xid = FIRST_XID
        #: How many entries there were when the server started.
        self._began_with = 0

    @staticmethod
    def position(entries: int) -> int:
        """Return the position, in bytes, where that many entries end."""
        return _BEGIN + _BYTES * entries

    @property
    def end(self) -> int:
        """The number of its entries."""
        return len(self.entries)

    # The actions of a master

    def begin(self, owner: object) -> int:
        """Give an id to a transaction that begins to write."""
        xid, self._next_xid = self._next_xid, self._next_xid + 1
        self.running[xid] = owner
        self.entries.append(Entry(self.timeline, xid, owner))
        return xid

    def write_end(self, xid: int, *, commit: bool, balance: int | None = None) -> int:
        """Write the end of a transaction, which runs until `finish`; return the end of the log."""
        owner, at = self.running[xid], self._now()
        self.entries.append(Entry(self.timeline, xid, owner, commit, at, balance))
        return self.end

    def finish(self, xid: int) -> None:
        """Make the end of a transaction visible to all."""
        self.running.pop(xid, None)

    def flush(self, end: int) -> None:
        """Flush up to `end`, or to the end of the log if that is earlier."""
        self.flushed = max(self.flushed, min(end, self.end))

    def status(self, xid: int) -> str:
        """Return the result of `pg_xact_status`, or that the transaction is in progress."""
        if xid in self.running or xid >= self._next_xid:
            return "in progress"
        return "aborted" if self.commit_of(xid) is None else "committed"

    def commit_of(self, xid: int) -> Entry | None:
        """Return the commit of a transaction id, whichever transaction has the id here."""
        return next((x for x in self.entries if x.xid == xid and x.committed), None)

    def balance(self) -> int | None:
        """Return the balance that the account was last set to."""
        ended = (x.balance for x in reversed(self.entries) if x.committed)
        return next((x for x in ended if x is not None), None)

    # What happens to the log

    def crash(self, lost: float) -> None:
        """Lose a share `lost` of the entries that were not flushed; 1.0 loses all of them."""
        kept = self.end - round(lost * (self.end - self.flushed))
        self.entries = self.entries[:kept]  # others may still read the old list

    def start(self, *, master: bool, crashed: bool) -> None:
        """Start, as a master that crashed or was stopped, or as a standby."""
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
        """Begin a new timeline at the end of this log."""
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
        """Append the entries of another log, up to `end`."""
        self.entries += entries[self.end : end]
        self.flushed = self.end
        if self.entries:
            self.timeline = self.entries[-1].timeline

    def is_part_of(self, other: Wal) -> bool:
        """Tell whether another log contains this one from its beginning."""
        end = self.end
        return end <= other.end and (not end or other.entries[end - 1] is self.entries[end - 1])

    def rewind(self, other: Wal) -> None:
        """Drop the entries that another log does not have, as pg_rewind does, and take its own."""
        self.entries = other.entries[: other.flushed]
