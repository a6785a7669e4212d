"""What a server says of itself in one query."""

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
        WHERE state = 'streaming')
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

    def streams(self, port: int, timeline: int) -> bool:
        """Tell whether it follows the master on `port` onto its present timeline.

        One that has replayed more of the old timeline than the new one has in common with it
        goes on connecting to the master, but never gets onto that timeline.
        """
        return self.in_recovery and (self.streaming_from, self.timeline) == (port, timeline)

    @classmethod
    def parse(cls, row: str) -> "NodeStatus":
        """Read the answer to `QUERY`."""
        recovery, port, paused, timeline, promoted, position, standbys = row.split("|")
        return cls(
            recovery == "1",
            int(port),
            paused == "1",
            int(timeline),
            float(promoted),
            int(position),
            frozenset(standbys.split(",")),
        )
