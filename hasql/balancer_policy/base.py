"""The base of every balancer policy, and what a policy sees of a node."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random
from typing import Protocol, TypeVar

from hasql.cluster.host import HostSpec
from hasql.errors import ConfigurationError

__all__ = ("BaseBalancerPolicy", "Candidate", "CandidateT", "few_of")


class Candidate(Protocol):
    """A node that may serve, as a policy sees it."""

    @property
    def host(self) -> HostSpec:
        """The host of the node."""

    @property
    def position(self) -> int:
        """Its place among all hosts of the cluster; candidates come in this order."""

    @property
    def as_master(self) -> bool:
        """Whether it would serve as a master; the same for all candidates of one choice."""

    @property
    def free(self) -> int:
        """How many more connections it can hand out, by hasql's own count; 0 when it is full."""

    @property
    def response_time(self) -> float | None:
        """Median round trip of the last probes in seconds; None before the first probe."""

    @property
    def replayed(self) -> int | None:
        """WAL position in bytes that the last probe read: what the node wrote or replayed."""

    @property
    def lag_seconds(self) -> float | None:
        """Greatest possible age of a replica's data in seconds; None for a master, or not known."""

    @property
    def label(self) -> str | None:
        """The label that the source of hosts gives it; None for a host of the DSN."""

    @property
    def priority(self) -> int:
        """A lower one is used first; the same for all candidates of one choice."""

    @property
    def weight(self) -> int:
        """Its share relative to the others, from the source of hosts: 0 or more, 1 by default."""


CandidateT = TypeVar("CandidateT", bound=Candidate)


#: If there are more candidates than this, a sample is looked at instead of all.
_LOOK_AT_ALL = 8


def few_of(candidates: Sequence[CandidateT], chance: Random) -> Sequence[CandidateT]:
    """Return all candidates, or two at random if there are more than eight.

    This keeps the cost of a choice from growing with the number of hosts.
    """
    number = len(candidates)
    if number <= _LOOK_AT_ALL:
        return candidates
    # Written out, because `random.sample` takes longer than all the rest of an acquire.
    one, other = int(chance.random() * number), int(chance.random() * (number - 1))
    return candidates[one], candidates[other + (other >= one)]


class BaseBalancerPolicy(ABC):
    """Picks one of several candidates. It is called on every acquire and must not wait.

    An instance serves one pool manager. It takes its chance from that manager, so that a run of
    the manager can be replayed; an instance that serves no manager has a source of its own.
    """

    #: The source of chance: use ``self.chance.random()``, never the module `random`.
    chance = Random()  # noqa: S311  # no secret
    _in_use = False

    def serve(self, chance: Random) -> None:
        """Serve a manager. Raises ConfigurationError if the policy serves one already."""
        if self._in_use:
            raise ConfigurationError(
                f"this {type(self).__name__} already serves another pool manager; make one for "
                "each manager, or give the class"
            )
        self._in_use, self.chance = True, chance

    @abstractmethod
    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        """Return one of `candidates`. There are at least two, in the order of the hosts.

        The cost must not grow with their number: if there are more than eight, look at two of them
        at random. If the returned node is full, this is called again with the nodes that are not.

        The acquire raises whatever this method raises. If the returned object is not one of the
        candidates, the acquire raises ConfigurationError.
        """
