"""The state of one node: its health, its last answer, and why it may not serve."""

from dataclasses import dataclass
from enum import Enum
from math import inf

from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Reading, Role

__all__ = ("Exclusion", "Health", "NodeState", "Rules")


class Health(Enum):
    """How well a host answers its probes."""

    #: Has neither answered nor failed yet.
    STARTING = "starting"
    UP = "up"
    #: Its reserved connection has gone quiet: used only while no other host can serve. Or it
    #: accepts no new connection: used only while no other host has room.
    SUSPECT = "suspect"
    DOWN = "down"


class Exclusion(Enum):
    """Why a host that answers is not routed to."""

    NEVER_MASTER = "is a master, which never_master forbids"
    NEVER_REPLICA = "is a replica, which its source of hosts forbids"
    FENCED = "fenced: a master of a newer timeline has replaced it"
    SPLIT = "split: another master writes the same timeline"
    FOREIGN = "belongs to another cluster: its system identifier differs"
    ALIAS = "is the same server as a host named before it"
    LEAVING = "is leaving: its source of hosts no longer names it"


@dataclass(frozen=True, slots=True)
class Rules:
    """The user's options that decide who may serve."""

    fencing: bool = True
    allow_several_clusters: bool = False
    #: Hosts that are never masters; a port of None stands for every port of that host.
    never_master: frozenset[tuple[str, int | None]] = frozenset()
    #: Seconds of silence after which leases are aborted. None: never.
    lease_abort_after: float | None = 10.0

    def forbids_master(self, host: HostSpec) -> bool:
        """Tell whether `never_master` names this host; its names do not end in a dot."""
        names = (host.host.rstrip("."), *filter(None, [host.address]))
        return any(
            (name, port) in self.never_master for name in names for port in (None, host.port)
        )


@dataclass(frozen=True, slots=True)
class NodeState:
    """All that is known of one node. Times are seconds of time.monotonic()."""

    host: HostSpec
    #: When health, role, exclusion or identity last changed.
    since: float
    health: Health = Health.STARTING
    #: The last answer. A node that is down keeps it: a dead master's timeline still counts.
    reading: Reading | None = None
    exclusion: Exclusion | None = None
    #: When the newest probe that was reported began, whether it was answered or not.
    began: float = float("-inf")
    #: When the host last answered; None until it has.
    answered_at: float | None = None
    #: When the first failed probe since the last answer began; None while the host answers.
    silent_since: float | None = None
    #: The last failure; kept after the host has recovered.
    error: BaseException | None = None
    #: Whether the last failure was a refusal that waiting cannot cure: login or database name.
    refused: bool = False
    #: Whether the server itself answered that it accepts no connection now, as a full one does.
    known_alive: bool = False
    #: Whether its name was found to lead to several servers, as a service's or a proxy's may.
    several_servers: bool = False
    #: What its source of hosts says of it; see `Discovered`.
    never_master: bool = False
    never_replica: bool = False
    #: Whether the source no longer names it; it serves as long as it cannot be replaced.
    leaving: bool = False

    @property
    def answers(self) -> bool:
        """Whether the host is up, or quiet for so short a time that it may still be up."""
        return self.health is Health.UP or self.health is Health.SUSPECT

    @property
    def role(self) -> Role:
        """The role it has, whether or not it may serve; UNKNOWN while it does not answer."""
        return self.reading.role if self.reading is not None and self.answers else Role.UNKNOWN

    def abort_due(self, limit: float | None) -> float:
        """Return when to begin a probe that would show the host to have been silent for so long.

        Infinity: no probe is needed, because the host is not silent, or one has shown it already.
        """
        if limit is None or self.silent_since is None or self.began >= self.silent_since + limit:
            return inf
        return self.silent_since + limit

    @property
    def may_serve_later(self) -> bool:
        """Whether it may serve now, or, if it must not be used as a replica, once promoted."""
        return self.exclusion is None or (
            self.exclusion is Exclusion.NEVER_REPLICA and not self.never_master
        )

    @property
    def may_go(self) -> bool:
        """Whether the host can be dropped without loss, once its leases have ended."""
        return self.leaving and (self.exclusion is not None or self.health is Health.DOWN)

    @property
    def was_master(self) -> bool:
        """Whether the last answer, however old, was a master's."""
        return self.reading is not None and self.reading.role is Role.MASTER

    @property
    def was_replica(self) -> bool:
        """Whether the last answer, however old, was a replica's."""
        return self.reading is not None and self.reading.role is Role.REPLICA

    @property
    def system_id(self) -> int | None:
        """The identifier of its cluster, None while unknown."""
        return self.reading.system_id if self.reading is not None else None

    @property
    def timeline(self) -> int | None:
        """The timeline it wrote when it last answered as a master."""
        return self.reading.timeline if self.reading is not None else None

    @property
    def server(self) -> tuple[int, int] | None:
        """The running server's identity, equal under each of its names; None while unknown."""
        reading = self.reading
        if reading is None or reading.system_id is None or reading.started_at is None:
            return None
        return reading.system_id, reading.started_at

    def describe(self, now: float) -> str:
        """Say in one line how this node is doing, for error messages."""
        words = f"{self.host} {self.health.value}"
        if self.role is not Role.UNKNOWN:
            words += f" {self.role.value}"
            if self.role is Role.MASTER and self.timeline is not None:
                words += f" (timeline {self.timeline})"
        words += f" for {max(0.0, now - self.since):.1f} s"
        if self.exclusion is not None and self.answers:
            words += f", {self.exclusion.value}"
        if self.error is not None:
            words += f", last error: {type(self.error).__name__}: {self.error}"
        return words
