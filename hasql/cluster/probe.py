"""The probe: the SQL that asks a server what it is, and the reading of its answer.

It takes one round trip and one row, for an ordinary role without grants, on PostgreSQL 14 to 18. If
a server denies or lacks a function, the next smaller form is used: `FULL`, then `CORE` (nothing on
how its timeline came to be), `PLAIN` (no control file, no WAL functions), then `BARE`.

In a burst a thousand clients may ask at once. So a role that is known is confirmed by
`STANDBY_QUERY`, and `CHANGES` asks for whatever else may have changed.

Names and operators are qualified, because an application's search path may put others before them.
No value depends on how a session formats numbers and times: all are integers, `numeric`,
positions, booleans, or ASCII.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from math import isfinite
from types import MappingProxyType
from typing import Any, Final

from hasql.errors import HasqlError

__all__ = (
    "STANDBY_QUERY",
    "STARTED_AT",
    "ProbeForm",
    "Reading",
    "Role",
    "UnreadableAnswerError",
    "read_row",
    "timeline_of",
    "writes_query",
)


class Role(Enum):
    """The role that a server reports. PostgreSQL's documentation says primary and standby."""

    MASTER = "master"
    REPLICA = "replica"
    UNKNOWN = "unknown"


#: When the postmaster started, in microseconds since 1970.
STARTED_AT: Final = """\
(extract(epoch FROM pg_catalog.pg_postmaster_start_time())
  OPERATOR(pg_catalog.*) 1000000)::bigint"""


#: Asked first: if it says master, the rest of the answer is a master's, because no server becomes a
#: standby without a restart. A function that only a master allows raises on a standby, so each is
#: guarded by this question once more.
_RECOVERS: Final = "pg_catalog.pg_is_in_recovery()"

# Positions are sent as text and times in seconds: computing with them costs the server more than
# reading them costs us. The timeline is that of the WAL being written; pg_control_checkpoint() lags
# behind.
_IDENTITY: Final = f"""\
(pg_catalog.pg_control_system()).system_identifier,
 {STARTED_AT},
 pg_catalog.pg_backend_pid()"""
_CLOCK: Final = "extract(epoch FROM pg_catalog.clock_timestamp())"
_REPLAYED_AT: Final = "extract(epoch FROM pg_catalog.pg_last_xact_replay_timestamp())"
_WAL: Final = f"""\
CASE WHEN NOT {_RECOVERS} THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END,
 CASE WHEN {_RECOVERS} THEN pg_catalog.pg_last_wal_replay_lsn()
  ELSE pg_catalog.pg_current_wal_lsn() END"""

# Once a recovery has ended, the replay functions return the same until the next one: they tell of
# the recovery after which this server began to write. Only a standby receives WAL in a recovery, so
# a server that has received some was promoted then; after a crash there is none.
_HISTORY: Final = f"""\
CASE WHEN NOT {_RECOVERS} THEN pg_catalog.pg_current_wal_flush_lsn() END,
 pg_catalog.pg_last_wal_replay_lsn(),
 pg_catalog.pg_last_wal_receive_lsn() IS NOT NULL"""

# A standby does not say which timeline it follows. It has certainly followed each of these three;
# two of them are read from a file.
_RECEIVED: Final = "(pg_catalog.pg_stat_get_wal_receiver()).received_tli"
_FOLLOWED: Final = f"""\
CASE WHEN {_RECOVERS} THEN GREATEST((pg_catalog.pg_control_checkpoint()).timeline_id,
  (pg_catalog.pg_control_recovery()).min_recovery_end_timeline,
  {_RECEIVED}) END"""


class ProbeForm(Enum):
    """How much one probe asks for; the value is its SQL."""

    FULL = f"""\
SELECT {_RECOVERS}, {_CLOCK},
 {_IDENTITY},
 {_WAL},
 {_REPLAYED_AT},
 {_HISTORY},
 {_FOLLOWED}"""

    CORE = f"""\
SELECT {_RECOVERS}, {_CLOCK},
 {_IDENTITY},
 {_WAL},
 CASE WHEN {_RECOVERS} THEN {_REPLAYED_AT} END"""

    PLAIN = f"""\
SELECT {_RECOVERS}, {_CLOCK},
 NULL, {STARTED_AT}, pg_catalog.pg_backend_pid()"""

    BARE = f"SELECT {_RECOVERS}"

    #: What may change in a server while it runs, also by a promotion. It is for a server that has
    #: answered `FULL` over the same session and without a pooler. It reads no file.
    CHANGES = f"""\
SELECT {_RECOVERS}, {_CLOCK},
 {_WAL},
 {_REPLAYED_AT},
 {_HISTORY},
 {_RECEIVED}"""

    @property
    def smaller(self) -> "ProbeForm | None":
        """The form to try when the server denies this one; None for the smallest."""
        return _SMALLER.get(self)


_SMALLER: Final = MappingProxyType(
    dict(pairwise((ProbeForm.FULL, ProbeForm.CORE, ProbeForm.PLAIN, ProbeForm.BARE)))
)

#: Has one row on a standby and none on a master. It can only confirm a role that is known, because
#: something between us and the server may answer without a row as well.
STANDBY_QUERY: Final = f"SELECT 1 WHERE {_RECOVERS}"


def writes_query(server: tuple[int, int] | None) -> str:
    """Return SQL that has one row if the server writes and is this one, and no row otherwise.

    It runs in an application's own session, so it returns no values, which would go through the
    session's codecs, and takes no parameters.

    Args:
        server: The system identifier and the start of the postmaster, as a probe has read them.
            None: any server.
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
    """What one answered probe said of its server. None: the server does not tell."""

    role: Role
    #: Identifies the cluster: equal on a master and on all physical copies of it.
    system_id: int | None = None
    #: Start of the postmaster, microseconds since 1970; identifies the running server.
    started_at: int | None = None
    #: Timeline that a master writes. None on a replica.
    timeline: int | None = None
    #: WAL position in bytes: written on a master, replayed on a replica.
    wal_position: int | None = None
    #: Seconds since the commit that a replica replayed last. None on a master.
    replay_age: float | None = None
    #: Seconds since the start of the postmaster, by the server's own clock. If that is less than
    #: the age of the last reading, the server has restarted.
    uptime: float | None = None
    #: The process that answered. If the login named another one, there is a pooler in between.
    backend_pid: int | None = None
    #: On a master: the WAL position, in bytes, up to which a crash no longer loses anything.
    flushed: int | None = None
    #: On a master: the WAL position, in bytes, up to which it recovered when it started or was
    #: promoted. None: it did not have to.
    recovered_to: int | None = None
    #: On a master: whether it was a standby since its start, and so was promoted at `recovered_to`.
    was_standby: bool | None = None
    #: On a master that was a standby: when the last transaction that it replayed had ended, by the
    #: clock of the master before it, in microseconds since 1970.
    last_replayed: int | None = None
    #: On a replica: the newest timeline that it is known to have followed.
    followed: int | None = None


class UnreadableAnswerError(HasqlError):
    """The answer to a probe is one that no PostgreSQL server gives, so the probe has failed."""


#: A WAL file's name begins with its timeline, eight hexadecimal digits:
#: https://www.postgresql.org/docs/current/wal-internals.html
_WAL_FILE: Final = re.compile("[0-9A-F]{24}")
_POSITION: Final = re.compile("([0-9A-F]{1,8})/([0-9A-F]{1,8})")
_ROLE: Final = ("role",)
_IDENTITY_COLUMNS: Final = ("system identifier", "start time", "process id")
_WAL_COLUMNS: Final = ("WAL file", "WAL position", "time of the last replayed commit")
_HISTORY_COLUMNS: Final = (
    "flushed position",
    "end of the recovery",
    "history as a standby",
    "followed timeline",
)
_COLUMNS: Final = MappingProxyType(
    {
        ProbeForm.FULL: (*_ROLE, "clock", *_IDENTITY_COLUMNS, *_WAL_COLUMNS, *_HISTORY_COLUMNS),
        ProbeForm.CORE: (*_ROLE, "clock", *_IDENTITY_COLUMNS, *_WAL_COLUMNS),
        ProbeForm.PLAIN: (*_ROLE, "clock", *_IDENTITY_COLUMNS),
        ProbeForm.BARE: _ROLE,
        ProbeForm.CHANGES: (*_ROLE, "clock", *_WAL_COLUMNS, *_HISTORY_COLUMNS),
    }
)


def read_row(form: ProbeForm, row: Sequence[str | None], known: Reading | None = None) -> Reading:
    """Read the row that a probe of this form was answered with, as the server's own text.

    NULL means that the server does not tell. A value that cannot be read is an error: taken for a
    role or for NULL, it would silently lose a master or switch fencing off.

    Args:
        form: What was asked for.
        row: The answer.
        known: What the same server has said before; for what CHANGES does not ask for.

    Raises:
        UnreadableAnswerError: The row is not an answer to such a probe.
    """
    columns = _COLUMNS[form]
    if len(row) != len(columns):
        msg = f"a probe was answered with {len(row)} columns instead of {len(columns)}"
        raise UnreadableAnswerError(msg)
    said = {what: _read(what, value) for what, value in zip(columns, row, strict=True)}
    if said["role"] is None:
        raise UnreadableAnswerError("a probe was answered without a role")
    if known is not None:
        identity = known.system_id, known.started_at, known.backend_pid
        said |= zip(_IDENTITY_COLUMNS, identity, strict=True)
    return _reading_of(said.get)


def _reading_of(said: Callable[[str], Any]) -> Reading:
    role, clock, started_at = said("role"), said("clock"), said("start time")
    replayed_at = said("time of the last replayed commit")
    reading = Reading(
        role=role,
        system_id=said("system identifier"),
        started_at=started_at,
        wal_position=said("WAL position"),
        uptime=_seconds(started_at, clock),
        backend_pid=said("process id"),
    )
    # If a server is promoted while it answers, the later values are already a master's.
    if role is Role.REPLICA:
        age = _seconds(replayed_at, clock)
        return replace(reading, replay_age=age, followed=said("followed timeline"))
    return replace(
        reading,
        timeline=said("WAL file"),
        flushed=said("flushed position"),
        recovered_to=said("end of the recovery"),
        was_standby=said("history as a standby"),
        last_replayed=replayed_at,
    )


def _seconds(since: int | None, until: int | None) -> float | None:
    return None if since is None or until is None else (until - since) / 1_000_000


def _read(what: str, value: str | None) -> Any:  # noqa: ANN401  # by column
    if value is None:
        return None
    try:
        return _READERS[what](value)
    except (KeyError, TypeError, ValueError):
        msg = f"a probe was answered with {value!r} as the {what}, which cannot be read"
        raise UnreadableAnswerError(msg) from None


def _role(value: str) -> Role:
    return {"t": Role.REPLICA, "f": Role.MASTER}[value]


def _flag(value: str) -> bool:
    return {"t": True, "f": False}[value]


def timeline_of(value: str) -> int:
    """Return the timeline in a WAL file's name. Raises ValueError if it is not such a name."""
    if not _WAL_FILE.fullmatch(value):
        raise ValueError
    return int(value[:8], 16)


def _position(value: str) -> int:
    """Return a WAL position in bytes."""
    halves = _POSITION.fullmatch(value)
    if halves is None:
        raise ValueError
    return (int(halves[1], 16) << 32) + int(halves[2], 16)


def _microseconds(value: str) -> int:
    """Return a time in microseconds; a double holds a present-day one to within a quarter."""
    seconds = float(value)
    if not isfinite(seconds):
        raise ValueError
    return round(seconds * 1_000_000)


_READERS: Final = MappingProxyType[str, Callable[[str], Any]](
    {
        "role": _role,
        "clock": _microseconds,
        "system identifier": int,
        "start time": int,
        "process id": int,
        "WAL file": timeline_of,
        "WAL position": _position,
        "time of the last replayed commit": _microseconds,
        "flushed position": _position,
        "end of the recovery": _position,
        "history as a standby": _flag,
        "followed timeline": int,
    }
)
