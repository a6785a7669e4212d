"""The probe: the SQL that asks a server what it is, and the reading of its answer.

One round trip and one row, for an ordinary role without grants, on PostgreSQL 14 to 18. A server
that denies or lacks a function gets the next smaller form: `FULL`, then `PLAIN` (no control file,
no WAL functions), then `BARE`. `BARE` is also the cheap form for bursts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = ("ProbeForm", "Reading", "Role", "read_row")


class Role(Enum):
    """What a server says it is. PostgreSQL's documentation says primary and standby."""

    MASTER = "master"
    REPLICA = "replica"
    UNKNOWN = "unknown"


class ProbeForm(Enum):
    """How much one probe asks for; the value is its SQL."""

    # pg_is_in_recovery() is read once, in a subquery that OFFSET 0 keeps from being inlined:
    # a promotion between two readings would make the WAL functions of the other role raise.
    # The timeline is that of the WAL being written; pg_control_checkpoint() lags behind it.
    FULL = """\
SELECT r, (SELECT system_identifier FROM pg_control_system()),
 (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
 CASE WHEN NOT r THEN pg_walfile_name(pg_current_wal_lsn()) END,
 pg_wal_lsn_diff(CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
  '0/0')::bigint,
 CASE WHEN r THEN extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float8 END
FROM (SELECT pg_is_in_recovery() AS r OFFSET 0) AS s"""

    PLAIN = """\
SELECT pg_is_in_recovery(), NULL,
 (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, NULL, NULL, NULL"""

    BARE = "SELECT pg_is_in_recovery()"

    @property
    def smaller(self) -> "ProbeForm | None":
        """The form to try when the server denies this one; None for the smallest."""
        return {ProbeForm.FULL: ProbeForm.PLAIN, ProbeForm.PLAIN: ProbeForm.BARE}.get(self)


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


def read_row(row: Sequence[object]) -> Reading:
    """Read the row of a probe of any form."""
    values = [*row, None, None, None, None, None][:6]
    in_recovery, system_id, started_at, wal_file, position, age = values
    return Reading(
        role=Role.REPLICA if in_recovery else Role.MASTER,
        system_id=_integer(system_id),
        started_at=_integer(started_at),
        # A WAL file's name begins with its timeline, eight hexadecimal digits:
        # https://www.postgresql.org/docs/current/wal-internals.html
        timeline=int(wal_file[:8], 16) if isinstance(wal_file, str) else None,
        wal_position=_integer(position),
        replay_age=float(age) if isinstance(age, int | float) else None,
    )


def _integer(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None
