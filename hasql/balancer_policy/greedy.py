"""The policy that spreads by load."""

from collections.abc import Sequence
from random import choice, sample

from hasql.balancer_policy.base import BaseBalancerPolicy, CandidateT

__all__ = ("GreedyBalancerPolicy",)

#: More candidates than this are sampled instead of looked at.
_LOOK_AT_ALL = 8


class GreedyBalancerPolicy(BaseBalancerPolicy):
    """Take the node with most free connections, one at random of several that are equal.

    The count is hasql's own and includes acquires under way, so that simultaneous ones do not
    pile up on one node. Among more than eight it takes the better of two at random, which
    spreads nearly as well: Mitzenmacher, "The Power of Two Choices", 2001.
    """

    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        """Return the candidate with the most free connections."""
        if len(candidates) > _LOOK_AT_ALL:
            candidates = sample(candidates, 2)
        most = max([candidate.free for candidate in candidates])
        best = [candidate for candidate in candidates if candidate.free == most]
        return best[0] if len(best) == 1 else choice(best)  # noqa: S311  # no secret
