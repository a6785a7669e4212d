"""What a server says of itself in one query."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ("NodeStatus",)

# A promotion leaves a timeline history file, whose time tells which promotion was the last.
QUERY = """
SELECT pg_is_in_recovery()::int,
       coalesce((SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'), 0),
       CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused()::int ELSE 0 END,
       CASE WHEN pg_is_in_recovery()
            THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), 0)
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
       coalesce((SELECT extract(epoch FROM max(modification)) FROM pg_ls_waldir()
                 WHERE name LIKE '%.history'), 0),
       CASE WHEN pg_is_in_recovery()
            THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn,
       (SELECT string_agg(application_name, ',') FROM pg_stat_replication
        WHERE state = 'streaming'),
       (SELECT string_agg(number || ':' || (position::pg_lsn - '0/0'::pg_lsn), ',')
        FROM (SELECT split_part(line, E'\\t', 1), split_part(line, E'\\t', 2)
              FROM (SELECT 'pg_wal/' || max(name) FROM pg_ls_waldir()
                    WHERE name LIKE '%.history') AS history (path),
                   regexp_split_to_table(pg_read_file(path, 0, 1000000, true), E'\\n') AS line
              WHERE line ~ '^[0-9]') AS forks (number, position))
"""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One server's answer."""

    in_recovery: bool
    streaming_from: int
    """The port of the server it streams from, 0 when it does not stream."""
    paused: bool
    timeline: int
    """The one that a master writes, or that a replica receives; 0 when it receives nothing."""
    promoted_at: float
    """When its youngest timeline began, in seconds since the epoch; 0 if it is on the first."""
    position: int
    """How far in the WAL it is, in bytes: received or replayed on a replica, written on a master.
    """
    standbys: frozenset[str]
    """The names of those that stream from it and have caught up, by its own word."""
    forks: Mapping[int, int]
    """How far in the WAL each older timeline was left for the next one, up to its own."""

    def may_follow(self, master: "NodeStatus") -> bool:
        """Tell whether this replica can turn to a master, as far as is known.

        It cannot once it has more of its timeline than the master, which has left that before.
        """
        return self.position <= master.forks.get(self.timeline, self.position)

    def streams(self, port: int, timeline: int) -> bool:
        """Tell whether it follows the master on `port` onto its present timeline.

        One that has replayed more of the old timeline than the new one has in common with it
        goes on connecting to the master, but never gets onto that timeline.
        """
        return self.in_recovery and (self.streaming_from, self.timeline) == (port, timeline)

    @classmethod
    def parse(cls, row: str) -> "NodeStatus":
        """Read the answer to `QUERY`."""
        recovery, port, paused, timeline, promoted, position, standbys, forks = row.split("|")
        return cls(
            recovery == "1",
            int(port),
            paused == "1",
            int(timeline),
            float(promoted),
            int(position),
            frozenset(standbys.split(",")),
            {
                int(fork[0]): int(fork[1])
                for each in forks.split(",")
                if len(fork := each.split(":")) > 1
            },
        )
