"""The policy that prefers hosts that answer fast."""

from collections.abc import Sequence

from hasql.balancer_policy.base import BaseBalancerPolicy, CandidateT, few_of

__all__ = ("RandomWeightedBalancerPolicy",)

#: A time shorter than this is below what a clock can tell of a network; seconds.
_SHORTEST = 1e-6
#: What a weight of 0 counts as, so that hosts which all have weight 0 get equal shares.
_LEAST_WEIGHT = 0.01


class RandomWeightedBalancerPolicy(BaseBalancerPolicy):
    """Take a node at random, weighted by the inverse of its median response time.

    A host that answers in 1 ms gets five times the share of one that takes 5 ms. Among more than
    eight nodes two are drawn at random with equal chances, and the weights decide between these
    two. A host whose response time is not known gets the average share.

    It respects the `weight` that a source of hosts gives: of hosts that answer equally fast, one of
    weight 20 gets twice the share of one of weight 10, and one of weight 0 hardly any.
    """

    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        """Return a candidate at random; the faster it is, the likelier."""
        candidates = few_of(candidates, self.chance)
        times = [candidate.response_time for candidate in candidates]
        if None in times:  # for a host that has just joined
            known = [1 / max(time, _SHORTEST) for time in times if time is not None]
            unknown = len(known) / sum(known) if known else 1.0
            times = [unknown if time is None else time for time in times]
        shares = [
            (candidate.weight or _LEAST_WEIGHT) / max(time or 0.0, _SHORTEST)
            for candidate, time in zip(candidates, times, strict=True)
        ]
        return self.chance.choices(candidates, shares)[0]
