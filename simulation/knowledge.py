"""What a pool manager was told: the answers to its probes, and what they imply for its leases.

This account is independent of the core's own. No time passes while the core computes, so everything
that was told before the current moment must have had its effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hasql.cluster.host import HostSpec
    from simulation.connections import Connection
    from simulation.record import Record
    from simulation.servers import Server

__all__ = ("Knowledge",)


class Knowledge:
    """What the servers have told one pool manager about themselves."""

    def __init__(self, name: str, record: Record) -> None:
        self.name = name
        self.record = record
        #: For hosts with unanswered probes: when the first of these was sent.
        self.unanswered: dict[HostSpec, float] = {}
        #: When the manager last took each host for dead.
        self._down: dict[HostSpec, float] = {}
        #: When each timeline was first reported by the master that writes it.
        self._timelines: dict[int, float] = {}
        #: Whether each host last said that it is a replica, and since when it has said so.
        self._roles: dict[HostSpec, tuple[bool, float]] = {}

    def asks(self, server: Server) -> None:
        """Note that the manager probes a server, and has no answer yet."""
        self.unanswered.setdefault(server.host, self.record.clock.now)

    def went_down(self, host: HostSpec) -> None:
        """Note that the manager takes a host for dead."""
        self._down[host] = self.record.clock.now

    def is_of_before(self, connection: Connection) -> bool:
        """Tell whether a connection was opened before its host was last taken for dead."""
        return connection.opened_at < self._down.get(connection.server.host, 0.0)

    def told(self, server: Server, *, whole: bool) -> None:
        """Record an answer to a probe, the full or the short one."""
        now = self.record.clock.now
        if server.master and whole:
            self._timelines.setdefault(server.timeline, now)
        replica = not server.master
        known = self._roles.get(server.host)
        if known is None or known[0] is not replica:
            self._roles[server.host] = replica, now
            what = f"a master of timeline {server.timeline}" if server.master else "a replica"
            self.record.note(self.name, f"learns that {server} is {what}")

    def replaced(self, server: Server, *, just_now: bool = False) -> bool:
        """Tell whether a newer master was known before this moment, or has just become known."""
        now = self.record.clock.now
        newest = max((t for t, at in self._timelines.items() if at < now or just_now), default=0)
        return server.master and server.timeline < newest

    def is_standby(self, server: Server) -> bool:
        """Tell whether the server was known to be a standby before this moment, and still is."""
        replica, since = self._roles.get(server.host, (False, 0.0))
        return replica and since < self.record.clock.now
