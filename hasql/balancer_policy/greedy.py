"""The policy that spreads by load."""

from collections.abc import Sequence

from hasql.balancer_policy.base import BaseBalancerPolicy, CandidateT, few_of

__all__ = ("GreedyBalancerPolicy",)


class GreedyBalancerPolicy(BaseBalancerPolicy):
    """Take the node with the most free connections; of several equal ones, one at random.

    The count is hasql's own and includes acquires under way, so that simultaneous acquires do not
    pile up on one node. Among more than eight nodes it takes the better of two at random, which
    spreads nearly as well: Mitzenmacher, "The Power of Two Choices", 2001. It ignores `weight`.
    """

    def choose(self, candidates: Sequence[CandidateT]) -> CandidateT:
        """Return the candidate with the most free connections."""
        if len(candidates) > 2:  # noqa: PLR2004  # mostly there are two
            candidates = few_of(candidates, self.chance)
        if len(candidates) == 2:  # noqa: PLR2004
            one, other = candidates
            lead = one.free - other.free or self.chance.random() - 0.5
            return one if lead > 0 else other
        most = max([candidate.free for candidate in candidates])
        best = [candidate for candidate in candidates if candidate.free == most]
        return best[0] if len(best) == 1 else self.chance.choice(best)
