"""The policy that prefers hosts that answer fast."""

from collections.abc import Sequence
from random import choices, sample

from hasql.balancer_policy.base import BaseBalancerPolicy, CandidateT

__all__ = ("RandomWeightedBalancerPolicy",)

#: More candidates than this are sampled instead of looked at.
_LOOK_AT_ALL = 8
#: Stands in for a response time that is not known, or too short to be measured, in seconds.
_SHORTEST = 1e-6


class RandomWeightedBalancerPolicy(BaseBalancerPolicy):
    """Take a node at random, weighted by the inverse of its median response time.

    A host that answers in 1 ms gets five times the share of one that takes 5 ms. Among more
    than eight nodes two are drawn evenly and the weights decide between these.
    """

    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        """Return a candidate at random, the faster the likelier."""
        if len(candidates) > _LOOK_AT_ALL:
            candidates = sample(candidates, 2)
        weights = [1 / max(c.response_time or _SHORTEST, _SHORTEST) for c in candidates]
        return choices(candidates, weights)[0]  # noqa: S311  # no secret
