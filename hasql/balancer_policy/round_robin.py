"""The policy that takes turns."""

from bisect import bisect_right
from collections.abc import Sequence

from hasql.balancer_policy.base import BaseBalancerPolicy, Candidate, CandidateT

__all__ = ("RoundRobinBalancerPolicy",)


def _position(candidate: Candidate) -> int:
    return candidate.position


class RoundRobinBalancerPolicy(BaseBalancerPolicy):
    """Take the nodes in turn, in the order of the hosts.

    What is remembered is the place of the last node and not a count of turns: a node that
    leaves or returns changes nobody else's turn.
    """

    def __init__(self) -> None:
        self._last = -1

    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        """Return the candidate whose turn it is."""
        following = bisect_right(candidates, self._last, key=_position)
        chosen = candidates[following % len(candidates)]
        self._last = chosen.position
        return chosen
