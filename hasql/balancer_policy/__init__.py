"""Balancer policies: they decide which of the nodes that may serve gets an acquire."""

from hasql.balancer_policy.base import BaseBalancerPolicy, Candidate, CandidateT
from hasql.balancer_policy.greedy import GreedyBalancerPolicy
from hasql.balancer_policy.random_weighted import RandomWeightedBalancerPolicy
from hasql.balancer_policy.round_robin import RoundRobinBalancerPolicy

__all__ = (
    "BaseBalancerPolicy",
    "Candidate",
    "CandidateT",
    "GreedyBalancerPolicy",
    "RandomWeightedBalancerPolicy",
    "RoundRobinBalancerPolicy",
)
