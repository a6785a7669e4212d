"""What every balancer policy fulfils."""

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

    @property
    def replayed(self) -> int | None:
        """Its WAL position in bytes, as a probe has read it last: what it wrote or replayed."""

    @property
    def lag_seconds(self) -> float | None:
        """How old what a replica shows is at most, in seconds; None for a master, or not known."""

    @property
    def label(self) -> str | None:
        """What the source of hosts calls it; None for a host of the DSN."""

    @property
    def priority(self) -> int:
        """The lower, the sooner used. The candidates of one choice are all alike in it."""

    @property
    def weight(self) -> int:
        """Its share beside the others, as its source of hosts has it: 1 by default, 0 or more."""


CandidateT = TypeVar("CandidateT", bound=Candidate)


#: More candidates than this are sampled instead of looked at.
_LOOK_AT_ALL = 8


def few_of(candidates: Sequence[CandidateT], chance: Random) -> Sequence[CandidateT]:
    """Return all candidates, or two at random if there are more than eight.

    So that the cost of a choice does not grow with the number of hosts.
    """
    number = len(candidates)
    if number <= _LOOK_AT_ALL:
        return candidates
    # By hand, as `random.sample` takes longer than all the rest of an acquire.
    one, other = int(chance.random() * number), int(chance.random() * (number - 1))
    return candidates[one], candidates[other + (other >= one)]


class BaseBalancerPolicy(ABC):
    """Picks one of several candidates. It is called on every acquire: it must not wait.

    An instance serves one pool manager. Its chance is the manager's, so that what a manager does
    can be played again; one that serves none has its own.
    """

    #: Where it takes chance from: ``self.chance.random()``, never the module `random`.
    chance = Random()  # noqa: S311  # no secret
    _in_use = False

    def serve(self, chance: Random) -> None:
        """Serve a manager. Raises ConfigurationError if it serves one already."""
        if self._in_use:
            raise ConfigurationError(
                f"this {type(self).__name__} serves another pool manager; make one for each, or "
                "give the class"
            )
        self._in_use, self.chance = True, chance

    @abstractmethod
    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        """Return one of `candidates`, which are at least two, in the order of the hosts.

        The cost must not grow with their number: with more than eight look at two at random. If
        the one returned is full, this is called again with those that are not.

        What it raises, its acquire raises; what is no candidate is a ConfigurationError there.
        """
