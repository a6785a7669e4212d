"""What monitors see of the rest of the manager."""

from typing import Protocol

from hasql.cluster.host import HostSpec
from hasql.cluster.topology import Observation, Topology

__all__ = ("ClusterView",)


class ClusterView(Protocol):
    """What monitors see of the rest of the manager, and where they report to."""

    @property
    def topology(self) -> Topology:
        """What is known of all hosts."""

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child, which must not touch what belongs to its parent."""

    def publish(self, observation: Observation) -> None:
        """Take in what a probe has said."""

    def in_use(self, host: HostSpec) -> tuple[object, ...]:
        """Return the leases in use on a host."""
        ...

    def terminate_pools(self, host: HostSpec) -> None:
        """Break all that is open on a host: its monitor was cancelled from outside hasql."""
