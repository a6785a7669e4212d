"""The request: what an acquire asks for."""

from dataclasses import dataclass
from enum import Enum

from hasql.cluster.probe import Role

__all__ = ("MASTER", "MASTER_OR_REPLICA", "REPLICA", "REPLICA_OR_MASTER", "Fallback", "Request")


class Fallback(Enum):
    """When a request takes a host of the other role."""

    NEVER = "never"
    #: While no host of the role asked for is in routing. A host that is full is in routing.
    ABSENT = "absent"
    #: Also while no host of that role has room.
    FULL = "full"


@dataclass(frozen=True, eq=False, slots=True)
class Request:
    """What an acquire asks for: hosts of one role, or else perhaps of the other.

    Two requests are equal only if they are one object, so that looking one up costs the hot path
    nothing. The constants below are all the requests there are.
    """

    role: Role
    fallback: Fallback = Fallback.NEVER

    @property
    def passes(self) -> tuple[Role, ...]:
        """The roles that may serve, in the order in which they are tried."""
        if self.fallback is Fallback.NEVER:
            return (self.role,)
        other = Role.REPLICA if self.role is Role.MASTER else Role.MASTER
        return self.role, other

    def __str__(self) -> str:
        return ", or ".join(role.value for role in self.passes)


MASTER = Request(Role.MASTER)
REPLICA = Request(Role.REPLICA)
#: A replica, or a master while no replica is in routing.
REPLICA_OR_MASTER = Request(Role.REPLICA, Fallback.ABSENT)
#: A master if one has room, else a replica: for a read that falls into the masters' share.
MASTER_OR_REPLICA = Request(Role.MASTER, Fallback.FULL)
