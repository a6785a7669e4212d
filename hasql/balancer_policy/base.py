"""What every balancer policy fulfils."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import random
from typing import Protocol, TypeVar

from hasql.cluster.dsn import HostSpec

__all__ = ("BaseBalancerPolicy", "Candidate", "CandidateT", "few_of")


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


#: More candidates than this are sampled instead of looked at.
_LOOK_AT_ALL = 8


def few_of(candidates: Sequence[CandidateT]) -> Sequence[CandidateT]:
    """Return all candidates, or two at random if there are more than eight.

    So that the cost of a choice does not grow with the number of hosts.
    """
    number = len(candidates)
    if number <= _LOOK_AT_ALL:
        return candidates
    # By hand, as `random.sample` takes longer than all the rest of an acquire.
    one, other = int(random() * number), int(random() * (number - 1))  # noqa: S311  # no secret
    return candidates[one], candidates[other + (other >= one)]


class BaseBalancerPolicy(ABC):
    """Picks one of several candidates. It is called on every acquire: it must not wait."""

    @abstractmethod
    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        """Return one of `candidates`, which are at least two, in the order of the hosts.

        The cost must not grow with their number: with more than eight look at two at random. If
        the one returned is full, this is called again with those that are not.

        What it raises, its acquire raises; what is no candidate is a ConfigurationError there.
        """
