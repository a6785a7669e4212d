"""The policy that prefers hosts that answer fast."""

from collections.abc import Sequence

from hasql.balancer_policy.base import BaseBalancerPolicy, CandidateT, few_of

__all__ = ("RandomWeightedBalancerPolicy",)

#: What is shorter is beyond what a clock can tell of a network; seconds.
_SHORTEST = 1e-6


class RandomWeightedBalancerPolicy(BaseBalancerPolicy):
    """Take a node at random, weighted by the inverse of its median response time.

    A host that answers in 1 ms gets five times the share of one that takes 5 ms. Among more
    than eight nodes two are drawn evenly and the weights decide between these. A host whose
    response time is not known gets the average share.
    """

    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        """Return a candidate at random, the faster the likelier."""
        candidates = few_of(candidates, self.chance)
        times = [candidate.response_time for candidate in candidates]
        known = [1 / max(time, _SHORTEST) for time in times if time is not None]
        if len(known) < len(times):
            average = sum(known) / len(known) if known else 1.0
            rest = iter(known)
            known = [average if time is None else next(rest) for time in times]
        return self.chance.choices(candidates, known)[0]
