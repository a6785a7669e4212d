"""What every balancer policy fulfils."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, TypeVar

from hasql.cluster.dsn import HostSpec

__all__ = ("BaseBalancerPolicy", "Candidate", "CandidateT")


class Candidate(Protocol):
    """A node that may serve, as a policy sees it."""

    @property
    def host(self) -> HostSpec:
        """The host it is on."""

    @property
    def position(self) -> int:
        """Its place among all hosts of the cluster; candidates are in this order."""

    @property
    def as_master(self) -> bool:
        """Whether it would serve as a master. The candidates of one choice are all alike in it."""

    @property
    def free(self) -> int:
        """How many more connections it can hand out, by hasql's own count; 0 when it is full."""

    @property
    def response_time(self) -> float | None:
        """Median of the last probes' round trips in seconds, None before the first."""


CandidateT = TypeVar("CandidateT", bound=Candidate)


class BaseBalancerPolicy(ABC):
    """Picks one of several candidates. It is called on every acquire: it must not wait."""

    @abstractmethod
    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        """Return one of `candidates`, which are at least two, in the order of the hosts.

        The cost must not grow with their number: with more than eight look at two at random. If
        the one returned is full, this is called again with those that are not.

        What it raises, its acquire raises; what is no candidate is a ConfigurationError there.
        """
