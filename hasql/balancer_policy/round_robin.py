"""The policy that takes turns."""

from bisect import bisect_right
from collections.abc import Sequence

from hasql.balancer_policy.base import BaseBalancerPolicy, Candidate, CandidateT

__all__ = ("RoundRobinBalancerPolicy",)


def _position(candidate: Candidate) -> int:
    return candidate.position


class RoundRobinBalancerPolicy(BaseBalancerPolicy):
    """Take the nodes in turn, in the order of the hosts; masters and replicas each in theirs.

    What is remembered is the last node and not a count of turns: a node that leaves or returns
    changes nobody else's turn. It obeys no `weight`.
    """

    def __init__(self) -> None:
        # Of the masters and of the others. The node itself and not its place, which is another
        # once hosts before it are added or removed.
        self._last: dict[bool, Candidate] = {}

    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        """Return the candidate whose turn it is."""
        role = candidates[0].as_master
        last = self._last.get(role)
        following = 0 if last is None else bisect_right(candidates, last.position, key=_position)
        chosen = candidates[following % len(candidates)]
        self._last[role] = chosen
        return chosen
