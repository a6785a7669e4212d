"""The outcome of a commit: what is read before COMMIT, and what a master is asked afterwards."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Final, NoReturn

from hasql.cluster.checks import check_seconds
from hasql.cluster.host import HostSpec
from hasql.cluster.probe import STARTED_AT, UnreadableAnswerError, timeline_of
from hasql.errors import HasqlError

__all__ = ("CommitMark", "CommitUnknownError", "Outcome", "outcome_of_all")


class Outcome(Enum):
    """What has become of a transaction, according to the master that serves now."""

    #: The transaction's writes are there.
    COMMITTED = "committed"
    #: Its writes are not there and never will be: it was rolled back, or a failover has lost it.
    ABORTED = "aborted"
    #: No server that could be asked knows the outcome.
    UNKNOWN = "unknown"


def outcome_of_all(outcomes: Collection[Outcome]) -> Outcome:
    """Return the outcome of work that any of several transactions may have done."""
    if Outcome.COMMITTED in outcomes:
        return Outcome.COMMITTED
    return Outcome.UNKNOWN if Outcome.UNKNOWN in outcomes else Outcome.ABORTED


@dataclass(frozen=True, slots=True)
class CommitMark:
    """Where a transaction stood right before its COMMIT."""

    #: The question for the mark, asked in the transaction itself, in one round trip. Each value is
    #: `text`, which must be read without the application's codecs. The server must be one that
    #: answers the full probe.
    SQL: ClassVar[str] = f"""\
SELECT pg_catalog.pg_current_xact_id_if_assigned()::text,
 pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0')::text,
 pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), '0/0')::text,
 pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())::text,
 (SELECT system_identifier FROM pg_catalog.pg_control_system())::text,
 ({STARTED_AT})::text,
 pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), '0/0')::text,
 ((extract(epoch FROM pg_catalog.clock_timestamp())
  OPERATOR(pg_catalog.*) 1000000)::bigint)::text"""  # noqa: S608  # a constant

    #: The transaction's id, with its epoch.
    xid: int
    #: The host that it was begun on.
    host: HostSpec
    system_id: int
    timeline: int
    #: The position of the next WAL record, in bytes: the commit's record lies at or beyond it.
    position: int
    #: The position, in bytes, up to which that server would have lost nothing in a crash.
    flushed: int
    #: When the postmaster started, in microseconds since 1970.
    started_at: int
    #: The position up to which that server recovered before it wrote; None: it did not recover.
    recovered_to: int | None
    #: The time by that server's clock, in microseconds since 1970.
    at: int

    @property
    def server(self) -> tuple[int, int, int | None]:
        """The server's identity, which changes with each restart and each recovery from a crash.

        A server that goes on with the same postmaster after a crash has recovered up to another
        position, beyond the last one, because it has written in between.
        """
        return self.system_id, self.started_at, self.recovered_to

    @classmethod
    def read(cls, host: HostSpec, row: Sequence[str | None]) -> "CommitMark | None":
        """Read the one row of the answer; None: nothing was written, so nothing can be lost.

        Raises:
            UnreadableAnswerError: The row is not an answer to `SQL`.
        """
        if not row or row[0] is None:
            return None
        try:
            xid, position, flushed, wal_file, system_id, started_at, recovered_to, at = row
            return cls(
                xid=int(xid or ""),
                host=host,
                system_id=int(system_id or ""),
                timeline=timeline_of(wal_file or ""),
                position=int(position or ""),
                flushed=int(flushed or ""),
                started_at=int(started_at or ""),
                recovered_to=None if recovered_to is None else int(recovered_to),
                at=int(at or ""),
            )
        except ValueError:
            msg = f"{host} gave an unreadable answer about a transaction: {tuple(row)}"
            raise UnreadableAnswerError(msg) from None


#: Default timeout of `CommitUnknownError.outcome`, in seconds.
_TIMEOUT: Final = 10.0


class CommitUnknownError(HasqlError):
    """COMMIT was sent, its answer was lost, and no server could tell the outcome.

    The work may have been done, or not. The application decides what to do now: it can look for
    what the work would have written, or ask again later.

    Attributes:
        xid: The transaction's id; None with ``resolve_commits=False``, or if the host tells none.
        host: The host on which the transaction was begun.
        timeline: The timeline that the host wrote; None if the host does not tell or was not asked.
    """

    def __init__(
        self, host: HostSpec, mark: CommitMark | None, ask: Callable[[float], Any]
    ) -> None:
        self.host = host
        self.xid = None if mark is None else mark.xid
        self.timeline = None if mark is None else mark.timeline
        self._ask = ask
        what = "a transaction" if self.xid is None else f"transaction {self.xid}"
        where = f"{host}" if self.timeline is None else f"{host} (timeline {self.timeline})"
        super().__init__(
            f"{what} on {where} may have been committed, or not: the connection was lost before "
            f"the answer to COMMIT; look for what it has written, or ask outcome() later"
        )

    def outcome(self, timeout: float = _TIMEOUT) -> Any:  # noqa: ANN401  # by face
        """Ask the servers again, for at most `timeout` seconds, and return an `Outcome`.

        Await the result, except with the pool managers of ``hasql.sync``: there the call itself
        waits. Raises HasqlError in another process, if the error was pickled and sent there.
        """
        return self._ask(check_seconds("timeout", timeout))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        # The manager, with its locks and sockets, belongs to this process and cannot be pickled.
        state = {name: value for name, value in vars(self).items() if name != "_ask"}
        return _restored, (type(self), self.args), state


def _restored(of: type[CommitUnknownError], args: tuple[Any, ...]) -> CommitUnknownError:
    error = of.__new__(of, *args)
    error._ask = _ask_nobody  # noqa: SLF001  # of this module
    return error


def _ask_nobody(seconds: float) -> NoReturn:
    del seconds
    raise HasqlError(
        "this error was pickled, and the pool manager that could ask belongs to the other "
        "process; ask there, or look for what the transaction wrote"
    )
