"""The probe: the SQL that asks a server what it is, and the reading of its answer.

One round trip and one row, for an ordinary role without grants, on PostgreSQL 14 to 18. A server
that denies or lacks a function gets the next smaller form: `FULL`, then `CORE` (nothing of how its
timeline came to be), `PLAIN` (no control file, no WAL functions), then `BARE`. `BARE` is also the
cheap form for bursts.

Names and operators are qualified, as an application's search path may put others before them. No
value depends on how a session likes its numbers and times written: all are integers, `numeric`,
booleans, or ASCII.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from math import isfinite
from types import MappingProxyType
from typing import Final, TypeVar

from hasql.errors import HasqlError

__all__ = (
    "STARTED_AT",
    "ProbeForm",
    "Reading",
    "Role",
    "UnreadableAnswerError",
    "read_row",
    "timeline_of",
    "writes_query",
)

_T = TypeVar("_T")


class Role(Enum):
    """What a server says it is. PostgreSQL's documentation says primary and standby."""

    MASTER = "master"
    REPLICA = "replica"
    UNKNOWN = "unknown"


#: When the postmaster started, in microseconds since 1970.
STARTED_AT: Final = """\
(extract(epoch FROM pg_catalog.pg_postmaster_start_time())
  OPERATOR(pg_catalog.*) 1000000)::bigint"""


# pg_is_in_recovery() is read once, in a subquery that OFFSET 0 keeps from being inlined: a
# promotion between two readings would make the WAL functions of the other role raise. The timeline
# is that of the WAL being written; pg_control_checkpoint() lags behind it.
_CORE: Final = f"""\
SELECT r, (pg_catalog.pg_control_system()).system_identifier,
 {STARTED_AT},
 CASE WHEN NOT r THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END,
 pg_catalog.pg_wal_lsn_diff(CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn()
  ELSE pg_catalog.pg_current_wal_lsn() END, '0/0')::bigint,
 CASE WHEN r THEN extract(epoch FROM pg_catalog.now()
  OPERATOR(pg_catalog.-) pg_catalog.pg_last_xact_replay_timestamp()) END,
 extract(epoch FROM pg_catalog.clock_timestamp()
  OPERATOR(pg_catalog.-) pg_catalog.pg_postmaster_start_time()),
 pg_catalog.pg_backend_pid()"""  # noqa: S608  # a constant

# What the replay functions say stands still once a recovery has ended, until the next: it is of
# the recovery with which this server has begun to write. WAL was received in it by a standby
# alone, and so it was promoted then; what a crash leaves behind knows of none.
# A standby does not say which timeline it follows. Each of the three it has followed, at the least.
_HISTORY: Final = """\
 CASE WHEN NOT r THEN pg_catalog.pg_wal_lsn_diff(
  pg_catalog.pg_current_wal_flush_lsn(), '0/0')::bigint END,
 CASE WHEN NOT r THEN pg_catalog.pg_wal_lsn_diff(
  pg_catalog.pg_last_wal_replay_lsn(), '0/0')::bigint END,
 CASE WHEN NOT r THEN pg_catalog.pg_last_wal_receive_lsn() IS NOT NULL END,
 CASE WHEN NOT r THEN (extract(epoch FROM pg_catalog.pg_last_xact_replay_timestamp())
  OPERATOR(pg_catalog.*) 1000000)::bigint END,
 CASE WHEN r THEN GREATEST((pg_catalog.pg_control_checkpoint()).timeline_id,
  (pg_catalog.pg_control_recovery()).min_recovery_end_timeline,
  (pg_catalog.pg_stat_get_wal_receiver()).received_tli) END"""

_FROM: Final = "FROM (SELECT pg_catalog.pg_is_in_recovery() AS r OFFSET 0) AS s"


class ProbeForm(Enum):
    """How much one probe asks for; the value is its SQL."""

    FULL = f"{_CORE},\n{_HISTORY}\n{_FROM}"

    CORE = f"{_CORE}\n{_FROM}"

    PLAIN = f"""\
SELECT pg_catalog.pg_is_in_recovery(), NULL,
 {STARTED_AT},
 NULL, NULL, NULL,
 extract(epoch FROM pg_catalog.clock_timestamp()
  OPERATOR(pg_catalog.-) pg_catalog.pg_postmaster_start_time()),
 pg_catalog.pg_backend_pid()"""  # noqa: S608  # as above

    BARE = "SELECT pg_catalog.pg_is_in_recovery()"

    @property
    def smaller(self) -> "ProbeForm | None":
        """The form to try when the server denies this one; None for the smallest."""
        forms = tuple(ProbeForm)
        return dict(pairwise(forms)).get(self)


def writes_query(server: tuple[int, int] | None) -> str:
    """Return SQL that has one row if the server writes, and is this one; else none.

    It is for an application's own session. There are no values to be read, which would go through
    its codecs, and no parameters.

    Args:
        server: The system identifier and the start of the postmaster, as a probe has read them;
            None: whichever server it is.
    """
    sql = "SELECT FROM (SELECT 1) AS s WHERE NOT pg_catalog.pg_is_in_recovery()"
    if server is None:
        return sql
    system_id, started_at = server
    identity = "(SELECT system_identifier FROM pg_catalog.pg_control_system())"
    equals = "OPERATOR(pg_catalog.=)"
    return f"{sql} AND {identity} {equals} {system_id} AND {STARTED_AT} {equals} {started_at}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What one answered probe said of its server; None where the server does not tell."""

    role: Role
    #: Identifies the cluster: equal on a master and all copies made of it physically.
    system_id: int | None = None
    #: Start of the postmaster, microseconds since 1970; identifies the running server.
    started_at: int | None = None
    #: Timeline that a master writes. None on a replica.
    timeline: int | None = None
    #: WAL position in bytes: written on a master, replayed on a replica.
    wal_position: int | None = None
    #: Seconds since the commit that a replica replayed last. None on a master.
    replay_age: float | None = None
    #: Seconds since the start of the postmaster, by the server's own clock: a server that is
    #: younger than the last reading is old has restarted.
    uptime: float | None = None
    #: The process that answered. Another than the one that the login told of: a pooler.
    backend_pid: int | None = None
    #: On a master: up to which WAL position, in bytes, no crash loses anything any more.
    flushed: int | None = None
    #: On a master: up to which WAL position, in bytes, it has recovered when it started or was
    #: promoted. None where it had no need to.
    recovered_to: int | None = None
    #: On a master: whether it was a standby since its start, and so was promoted at `recovered_to`.
    was_standby: bool | None = None
    #: On a master that was a standby: when the last transaction that it has replayed had ended, by
    #: the clock of the master before it, in microseconds since 1970.
    last_replayed: int | None = None
    #: On a replica: a timeline that it has followed, the newest that is known for sure.
    followed: int | None = None


class UnreadableAnswerError(HasqlError):
    """A probe was answered with what no PostgreSQL server answers, and so it has failed."""


#: A WAL file's name begins with its timeline, eight hexadecimal digits:
#: https://www.postgresql.org/docs/current/wal-internals.html
_WAL_FILE: Final = re.compile("[0-9A-F]{24}")
_COLUMNS: Final = MappingProxyType(
    {ProbeForm.FULL: 13, ProbeForm.CORE: 8, ProbeForm.PLAIN: 8, ProbeForm.BARE: 1}
)
_NO_HISTORY: Final = (None,) * 5


def read_row(form: ProbeForm, row: Sequence[str | None]) -> Reading:
    """Read the row that a probe of this form was answered with, as the server's own text.

    NULL is what the server does not tell. A value that cannot be read is something else: taken
    for a role, or for not told, it would lose a master or switch fencing off without a word.

    Raises:
        UnreadableAnswerError: it is no answer to such a probe.
    """
    expected = _COLUMNS[form]
    if len(row) != expected:
        msg = f"a probe was answered with {len(row)} columns instead of {expected}"
        raise UnreadableAnswerError(msg)
    in_recovery, *rest = row
    role = _read("role", in_recovery, _role)
    if role is None:
        raise UnreadableAnswerError("a probe was answered without a role")
    if not rest:
        return Reading(role)
    system_id, started_at, wal_file, position, age, uptime, pid, *history = rest
    flushed, recovered_to, was_standby, last_replayed, followed = history or _NO_HISTORY
    return Reading(
        role=role,
        system_id=_read("system identifier", system_id, int),
        started_at=_read("start time", started_at, int),
        timeline=_read("WAL file", wal_file, timeline_of),
        wal_position=_read("WAL position", position, int),
        replay_age=_read("age of the last replay", age, _seconds),
        uptime=_read("uptime", uptime, _seconds),
        backend_pid=_read("process id", pid, int),
        flushed=_read("flushed position", flushed, int),
        recovered_to=_read("end of the recovery", recovered_to, int),
        was_standby=_read("past as a standby", was_standby, _flag),
        last_replayed=_read("last replayed commit", last_replayed, int),
        followed=_read("followed timeline", followed, int),
    )


def _read(what: str, value: str | None, reader: Callable[[str], _T]) -> _T | None:
    if value is None:
        return None
    try:
        return reader(value)
    except (KeyError, TypeError, ValueError):
        msg = f"a probe was answered with {value!r} as the {what}, which cannot be read"
        raise UnreadableAnswerError(msg) from None


def _role(value: str) -> Role:
    return {"t": Role.REPLICA, "f": Role.MASTER}[value]


def _flag(value: str) -> bool:
    return {"t": True, "f": False}[value]


def timeline_of(value: str) -> int:
    """Return the timeline of a WAL file by its name. Raises ValueError: it is none."""
    if not _WAL_FILE.fullmatch(value):
        raise ValueError
    return int(value[:8], 16)


def _seconds(value: str) -> float:
    seconds = float(value)
    if not isfinite(seconds):
        raise ValueError
    return seconds
