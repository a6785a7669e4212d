"""Resilience around the pool: load shedding, limits, retries, connection lifecycle, shutdown."""

from hasql.errors import (
    BreakerOpenError,
    LeaseTerminatedError,
    OverloadedError,
    RateLimitedError,
    RolledBackError,
    StaleReadError,
)
from hasql.resilience.admission import Admission
from hasql.resilience.breaker import Breaker
from hasql.resilience.commit_outcome import CommitMark, CommitUnknownError, Outcome
from hasql.resilience.drain_report import DrainReport
from hasql.resilience.error_rules import Category
from hasql.resilience.lifecycle import Lifecycle
from hasql.resilience.priority import Priority, priority
from hasql.resilience.rate_limit import RateLimit
from hasql.resilience.retry_policy import RetryPolicy
from hasql.resilience.session_defaults import SessionDefaults
from hasql.resilience.shutdown import shutdown_on_signals

__all__ = (
    "Admission",
    "Breaker",
    "BreakerOpenError",
    "Category",
    "CommitMark",
    "CommitUnknownError",
    "DrainReport",
    "LeaseTerminatedError",
    "Lifecycle",
    "Outcome",
    "OverloadedError",
    "Priority",
    "RateLimit",
    "RateLimitedError",
    "RetryPolicy",
    "RolledBackError",
    "SessionDefaults",
    "StaleReadError",
    "priority",
    "shutdown_on_signals",
)
