"""The status of a server, read in one query."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ("NodeStatus",)

# A promotion writes a timeline history file; its modification time tells when the promotion was.
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
    """One server's answer to `QUERY`."""

    in_recovery: bool
    streaming_from: int
    """The port of the server that this one streams from; 0 if it does not stream."""
    paused: bool
    timeline: int
    """The timeline that a master writes or a replica receives; 0 if it receives nothing."""
    promoted_at: float
    """When its newest timeline began, in seconds since the epoch; 0 if it is on the first one."""
    position: int
    """Its WAL position in bytes: received or replayed on a replica, written on a master."""
    standbys: frozenset[str]
    """The names of the replicas that, as it says, stream from it and have caught up."""
    forks: Mapping[int, int]
    """For each older timeline, the WAL position in bytes where the next timeline left it."""

    def may_follow(self, master: "NodeStatus") -> bool:
        """Tell whether this replica can follow a master, as far as is known.

        It cannot if its position is beyond the point where the master left the replica's timeline.
        """
        return self.position <= master.forks.get(self.timeline, self.position)

    def streams(self, port: int, timeline: int) -> bool:
        """Tell whether this server streams from the master on `port`, on the master's `timeline`.

        A replica that replayed WAL of the old timeline beyond the point where the new one left it
        keeps connecting to the master, but never reaches the new timeline.
        """
        return self.in_recovery and (self.streaming_from, self.timeline) == (port, timeline)

    @classmethod
    def parse(cls, row: str) -> "NodeStatus":
        """Parse the answer to `QUERY`."""
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
