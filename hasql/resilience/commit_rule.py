"""The rule by which what a master says of a transaction is taken for the outcome of a commit.

A transaction's id says which it is only within one history. A server that crashes forgets the WAL
it had not flushed, and then gives the ids that were in it to others; a standby that is promoted
goes on without what it has not received, and does the same. So "committed" may be said of another
transaction, and counts only if the position that was read before COMMIT is in the history of the
server that says it: then so is the id, which is not given away again.

All else needs less. Our commit, where a history holds it, is "committed" there for good. So a
server that says anything else of the id does not have it, whatever its past was.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hasql.cluster.host import HostSpec
from hasql.cluster.lineage import Switch, switch_of, switches_from
from hasql.cluster.probe import ProbeForm, Reading, Role, UnreadableAnswerError, read_row
from hasql.resilience.commit_outcome import CommitMark, Outcome

__all__ = ("LastSign", "StatusAnswer", "last_sign", "outcome_of", "question", "read_answer")

#: Microseconds in which no server crashes, recovers, lets somebody in and commits. (PostgreSQL 16
#: and 18 take 34 ms from the death of a process to the next commit, all in memory.)
_NO_RESTART: Final = 10_000

_STATUSES: Final = frozenset({"committed", "aborted", "in progress"})


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """What a server has said of a transaction and of itself, in one answer."""

    host: HostSpec
    #: What `pg_xact_status` says of the id; None: it is too old to be known, or this is no master.
    status: str | None
    reading: Reading
    #: Whether the host's name was found to lead to several servers.
    several: bool = False


def question(mark: CommitMark) -> str:
    """Return the SQL that asks a server of a transaction; it has one row.

    What has not ended when the server looks is "in progress": nothing else would do for an id that
    the server has not given away yet, of which `pg_xact_status` does not like to be asked.

    Only a master is asked: what a standby has not replayed yet, it would take for not committed.
    """
    return f"""\
{ProbeForm.FULL.value},
 CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN
  CASE WHEN '{mark.xid}'::pg_catalog.xid8 OPERATOR(pg_catalog.<)
    pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
   THEN pg_catalog.pg_xact_status('{mark.xid}') ELSE 'in progress' END END"""


def read_answer(host: HostSpec, row: Sequence[str | None], *, several: bool) -> StatusAnswer:
    """Read the row. Raises UnreadableAnswerError: it is no answer to that."""
    *probed, status = row or ("",)
    if status is not None and status not in _STATUSES:
        msg = f"{host} has said {status!r} of a transaction"
        raise UnreadableAnswerError(msg)
    return StatusAnswer(host, status, read_row(ProbeForm.FULL, probed), several)


@dataclass(frozen=True, slots=True)
class LastSign:
    """What a server has shown last, as far as is known, before it stopped, crashed or was lost."""

    #: When it has lived, by its clock, in microseconds since 1970.
    at: int
    #: Up to where, in bytes, it would have lost nothing in a crash.
    flushed: int

    def and_then(self, other: "LastSign") -> "LastSign":
        """Return what both of them tell of the same server."""
        return LastSign(max(self.at, other.at), max(self.flushed, other.flushed))


def last_sign(mark: CommitMark, reading: Reading | None) -> LastSign:
    """Return what a mark, and what was read later at the same place, tell of the mark's server."""
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
    """Return the outcome; None: ask again later, it is too early to say.

    Args:
        mark: What was read before COMMIT.
        answer: What a server says that is a master now.
        switches: Where the timelines of the mark's cluster have begun, as far as that was seen.
        sign: What the mark's server has shown last, before any restart.
    """
    reading = answer.reading
    if not _may_know(mark, reading):
        return None
    if _server(reading) == mark.server and reading.timeline == mark.timeline:
        return _of_the_same_server(answer.status)
    if answer.status is None:
        return Outcome.UNKNOWN
    if answer.status != "committed":
        # "In progress" is another's: ours has ended with its server.
        return Outcome.ABORTED
    if reading.timeline == mark.timeline:
        return _after_a_restart(mark, answer, switches, sign)
    return _after_promotions(mark, answer, switches, sign)


def _may_know(mark: CommitMark, reading: Reading) -> bool:
    """Tell whether it is a master of that cluster, and none that has been replaced already."""
    timeline = reading.timeline if reading.role is Role.MASTER else None
    same = reading.system_id == mark.system_id
    return same and timeline is not None and timeline >= mark.timeline


def _of_the_same_server(status: str | None) -> Outcome | None:
    """Without a restart all is in memory that ever was: it knows, or will."""
    if status == "in progress":
        return None
    if status is None:
        return Outcome.UNKNOWN
    return Outcome.COMMITTED if status == "committed" else Outcome.ABORTED


def _after_a_restart(
    mark: CommitMark, answer: StatusAnswer, switches: Iterable[Switch], sign: LastSign
) -> Outcome:
    """Say what "committed" means on the same timeline, from a server that has started since.

    It is lost if that server has recovered to no further than the mark: what it says is of another
    transaction, which has got the same id. So it is if this is another server, which was promoted
    to a timeline of the same number without knowing of the mark's.

    The contrary proves nothing, unless the mark's position had been flushed: there may have been a
    crash before the last one, which lost it, and the server that started then may have written
    beyond it.
    """
    reading = answer.reading
    if reading.was_standby or (
        reading.recovered_to is not None and reading.recovered_to <= mark.position
    ):
        return Outcome.ABORTED
    same = answer.host == mark.host and not answer.several and _is_the_only_one(mark, switches)
    return Outcome.COMMITTED if same and mark.position <= sign.flushed else Outcome.UNKNOWN


def _is_the_only_one(mark: CommitMark, switches: Iterable[Switch]) -> bool:
    """Tell whether no other server was seen to begin a timeline of the mark's number."""
    begun = [each for each in switches if each.timeline == mark.timeline]
    return len(begun) <= 1 and all(each.host == mark.host for each in begun)


def _after_promotions(
    mark: CommitMark, answer: StatusAnswer, switches: Iterable[Switch], sign: LastSign
) -> Outcome:
    """Say what "committed" means on a later timeline."""
    last = _last_switch(answer, switches)
    # A server that has started since its promotion, or received nothing before it, does not tell
    # where its timeline began; but it has recovered to there at the least.
    bound = answer.reading.recovered_to if last is None else last.position
    # No history has left a timeline behind where its last timeline began. The mark is where a
    # record ends, and the commit's lies behind it: what ends there has all before it, but not that.
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
    """Return where the timeline began that a master writes; None: it is not known.

    What was seen of it before is of use if the host is that server still, which goes without saying
    but for a name that leads to several, and a host that has begun that timeline twice.
    """
    timeline = answer.reading.timeline
    known = [each for each in switches if (each.host, each.timeline) == (answer.host, timeline)]
    told = switch_of(answer.host, answer.reading, None)
    if told is not None:
        same = (each for each in known if replace(each, ancestor=told.ancestor) == told)
        return next(same, told)  # which may know of an ancestor, too
    return known[0] if len(known) == 1 and not answer.several else None


def _holds(switch: Switch, mark: CommitMark, sign: LastSign) -> bool:
    """Tell whether a history that has left the mark's timeline so holds what the mark tells of.

    Its position alone would not tell: the mark's server may have crashed and lost it, started
    again, and written other things up to beyond it before it was replaced. That cannot be if it had
    been flushed.

    Nor if the last transaction that was replayed had ended after the mark was read, and before the
    mark's server could have been up again: then it was that server, in the life that the mark tells
    of, which has written its end, and so all that lies before. (The time of an end is taken before
    it is written, and that of the mark after its position, by the same clock.)
    """
    if switch.position <= mark.position:
        return False
    if mark.position <= sign.flushed:
        return True
    ended = switch.last_ended
    return ended is not None and mark.at <= ended <= sign.at + _NO_RESTART
