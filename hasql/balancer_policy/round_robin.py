"""The policy that takes turns."""

from bisect import bisect_right
from collections.abc import Sequence

from hasql.balancer_policy.base import BaseBalancerPolicy, Candidate, CandidateT

__all__ = ("RoundRobinBalancerPolicy",)


def _position(candidate: Candidate) -> int:
    return candidate.position


class RoundRobinBalancerPolicy(BaseBalancerPolicy):
    """Take the nodes in turn, in the order of the hosts; masters and replicas separately.

    The policy remembers the last node and not a count of turns, so that a node that leaves or
    returns does not change the turn of the others. It ignores `weight`.
    """

    def __init__(self) -> None:
        # The last master, and the last of the other nodes. The node itself is kept and not its
        # position, which changes when hosts before it are added or removed.
        self._last: dict[bool, Candidate] = {}

    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        """Return the candidate whose turn it is."""
        role = candidates[0].as_master
        last = self._last.get(role)
        following = 0 if last is None else bisect_right(candidates, last.position, key=_position)
        chosen = candidates[following % len(candidates)]
        self._last[role] = chosen
        return chosen
