"""The rule that derives the outcome of a commit from what a master says of a transaction.

A transaction's id identifies it only within one history. A server that crashes loses the WAL that
it had not flushed, and then gives the ids in that WAL to other transactions. A standby that is
promoted goes on without the WAL that it has not received, and does the same. So a server may say
"committed" of another transaction that has got the same id. The answer counts only if the position
that was read before COMMIT is in the history of that server: then the id is in it as well, and is
not given away again.

Any other answer needs no such proof. If a history holds our commit, the server says "committed"
for good. So a server that says anything else of the id does not have our commit, whatever its past.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hasql.cluster.host import HostSpec
from hasql.cluster.lineage import Switch, switch_of, switches_from
from hasql.cluster.probe import ProbeForm, Reading, Role, UnreadableAnswerError, read_row
from hasql.resilience.commit_outcome import CommitMark, Outcome

__all__ = ("LastSign", "StatusAnswer", "last_sign", "outcome_of", "question", "read_answer")

#: Microseconds that are too few for a server to crash, recover, accept a login and commit.
#: (PostgreSQL 16 and 18 take 34 ms from the death of a process to the next commit, all in memory.)
_NO_RESTART: Final = 10_000

_STATUSES: Final = frozenset({"committed", "aborted", "in progress"})


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """What a server said of a transaction and of itself, in one answer."""

    host: HostSpec
    #: What `pg_xact_status` says of the id; None: the id is too old, or the server is no master.
    status: str | None
    reading: Reading
    #: Whether the host's name was found to lead to several servers.
    several: bool = False


def question(mark: CommitMark) -> str:
    """Return the SQL that asks a server about a transaction; its answer has one row.

    A transaction that has not ended when the server looks is "in progress". The SQL says so by
    itself, because `pg_xact_status` does not accept an id that the server has not given away yet.

    Only a master is asked: a standby would report a commit that it has not replayed yet as not
    committed.
    """
    return f"""\
{ProbeForm.FULL.value},
 CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN
  CASE WHEN '{mark.xid}'::pg_catalog.xid8 OPERATOR(pg_catalog.<)
    pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
   THEN pg_catalog.pg_xact_status('{mark.xid}') ELSE 'in progress' END END"""


def read_answer(host: HostSpec, row: Sequence[str | None], *, several: bool) -> StatusAnswer:
    """Read the row. Raises UnreadableAnswerError if it is no answer to `question`."""
    *probed, status = row or ("",)
    if status is not None and status not in _STATUSES:
        msg = f"{host} answered {status!r} when asked about a transaction"
        raise UnreadableAnswerError(msg)
    return StatusAnswer(host, status, read_row(ProbeForm.FULL, probed), several)


@dataclass(frozen=True, slots=True)
class LastSign:
    """The last known sign of life of a server before it stopped, crashed or was lost."""

    #: The last time at which the server is known to have been up, by its own clock, in
    #: microseconds since 1970.
    at: int
    #: The WAL position, in bytes, up to which the server would have lost nothing in a crash.
    flushed: int

    def and_then(self, other: "LastSign") -> "LastSign":
        """Combine two signs of the same server."""
        return LastSign(max(self.at, other.at), max(self.flushed, other.flushed))


def last_sign(mark: CommitMark, reading: Reading | None) -> LastSign:
    """Return the last sign of the mark's server, from the mark and a later reading of its host."""
    sign = LastSign(mark.at, mark.flushed)
    if reading is None or reading.uptime is None or reading.started_at is None:
        return sign
    if _server(reading) != mark.server:
        return sign
    at = reading.started_at + int(reading.uptime * 1_000_000)
    return sign.and_then(LastSign(at, reading.flushed or 0))


def _server(reading: Reading) -> tuple[int | None, int | None, int | None]:
    return reading.system_id, reading.started_at, reading.recovered_to


def outcome_of(
    mark: CommitMark, answer: StatusAnswer, switches: Iterable[Switch], sign: LastSign
) -> Outcome | None:
    """Return the outcome; None: it is too early to say, ask again later.

    Args:
        mark: What was read before COMMIT.
        answer: What a server that is a master now says.
        switches: Where the timelines of the mark's cluster began, as far as that was seen.
        sign: The last sign of life of the mark's server, before any restart.
    """
    reading = answer.reading
    if not _may_know(mark, reading):
        return None
    if _server(reading) == mark.server and reading.timeline == mark.timeline:
        return _of_the_same_server(answer.status)
    if answer.status is None:
        return Outcome.UNKNOWN
    if answer.status != "committed":
        # "In progress" concerns another transaction: ours ended with its server.
        return Outcome.ABORTED
    if reading.timeline == mark.timeline:
        return _after_a_restart(mark, answer, switches, sign)
    return _after_promotions(mark, answer, switches, sign)


def _may_know(mark: CommitMark, reading: Reading) -> bool:
    """Tell whether the reading is from a master of the mark's cluster, on no older timeline."""
    timeline = reading.timeline if reading.role is Role.MASTER else None
    same = reading.system_id == mark.system_id
    return same and timeline is not None and timeline >= mark.timeline


def _of_the_same_server(status: str | None) -> Outcome | None:
    """Read the answer of a server that has not restarted: it has lost nothing, and knows."""
    if status == "in progress":
        return None
    if status is None:
        return Outcome.UNKNOWN
    return Outcome.COMMITTED if status == "committed" else Outcome.ABORTED


def _after_a_restart(
    mark: CommitMark, answer: StatusAnswer, switches: Iterable[Switch], sign: LastSign
) -> Outcome:
    """Say what "committed" means on the same timeline, from a server that has started since.

    The commit is lost if that server has recovered no further than the mark: then its answer
    concerns another transaction, which got the same id. The commit is also lost if this is another
    server, which was promoted to a timeline of the same number without knowing of the mark's.

    A recovery beyond the mark proves nothing, unless the mark's position had been flushed. An
    earlier crash may have lost the commit, and the server that started after it may have written
    beyond the mark before it crashed again.
    """
    reading = answer.reading
    if reading.was_standby or (
        reading.recovered_to is not None and reading.recovered_to <= mark.position
    ):
        return Outcome.ABORTED
    same = answer.host == mark.host and not answer.several and _is_the_only_one(mark, switches)
    return Outcome.COMMITTED if same and mark.position <= sign.flushed else Outcome.UNKNOWN


def _is_the_only_one(mark: CommitMark, switches: Iterable[Switch]) -> bool:
    """Tell whether no other server was seen to begin a timeline with the mark's number."""
    begun = [each for each in switches if each.timeline == mark.timeline]
    return len(begun) <= 1 and all(each.host == mark.host for each in begun)


def _after_promotions(
    mark: CommitMark, answer: StatusAnswer, switches: Iterable[Switch], sign: LastSign
) -> Outcome:
    """Say what "committed" means on a later timeline."""
    last = _last_switch(answer, switches)
    # A server that has restarted since its promotion, or that received nothing before it, does not
    # tell where its timeline began. But it has recovered at least to that point.
    bound = answer.reading.recovered_to if last is None else last.position
    # A history leaves every earlier timeline at or before the point where its last timeline began.
    # The mark is where a record ends, and the commit record comes after it. So a timeline that was
    # left at the mark holds everything before the mark, but not the commit.
    if bound is not None and bound <= mark.position:
        return Outcome.ABORTED
    left = None if last is None else switches_from(mark.timeline, last, switches)
    if left is None:
        return Outcome.UNKNOWN
    if all(switch.position <= mark.position for switch in left):
        return Outcome.ABORTED
    if _is_the_only_one(mark, switches) and all(_holds(switch, mark, sign) for switch in left):
        return Outcome.COMMITTED
    return Outcome.UNKNOWN


def _last_switch(answer: StatusAnswer, switches: Iterable[Switch]) -> Switch | None:
    """Return where the timeline that a master writes began; None: that is not known.

    What was seen of the host before counts only if the host is still the same server. It is, unless
    its name leads to several servers, or the host has begun that timeline twice.
    """
    timeline = answer.reading.timeline
    known = [each for each in switches if (each.host, each.timeline) == (answer.host, timeline)]
    told = switch_of(answer.host, answer.reading, None)
    if told is not None:
        same = (each for each in known if replace(each, ancestor=told.ancestor) == told)
        return next(same, told)  # the one seen before may know the ancestor, too
    return known[0] if len(known) == 1 and not answer.several else None


def _holds(switch: Switch, mark: CommitMark, sign: LastSign) -> bool:
    """Tell whether a history that left the mark's timeline at a switch holds the mark's WAL.

    That the switch lies beyond the mark is not enough: the mark's server may have crashed and lost
    that WAL, started again, and written other records beyond the mark before it was replaced. It
    cannot have lost that WAL if the mark's position had been flushed.

    Nor can it if the last replayed transaction ended after the mark was read and before the mark's
    server could have been up again. Then the mark's server wrote that end before any restart, and
    so everything before it as well. (A transaction's end time is taken before its record is
    written, and the mark's time after its position, both by the same clock.)
    """
    if switch.position <= mark.position:
        return False
    if mark.position <= sign.flushed:
        return True
    ended = switch.last_ended
    return ended is not None and mark.at <= ended <= sign.at + _NO_RESTART
