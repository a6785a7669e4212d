"""The options for the features around the pool; each feature is off unless given."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from hasql.cluster.checks import check_seconds
from hasql.resilience.admission import Admission
from hasql.resilience.breaker import Breaker
from hasql.resilience.lifecycle import Lifecycle
from hasql.resilience.rate_limit import RateLimit
from hasql.resilience.session_defaults import SessionDefaults

__all__ = ("Credentials", "ResilienceOptions")

Credentials: TypeAlias = Callable[
    [], str | tuple[str, str] | Awaitable[str] | Awaitable[tuple[str, str]]
]
"""A function, or coroutine function, that returns a password, or a user and a password."""

_KINDS: dict[str, type[Any]] = {
    "session": SessionDefaults,
    "lifecycle": Lifecycle,
    "admission": Admission,
    "rate_limit": RateLimit,
    "breaker": Breaker,
}


@dataclass(frozen=True, slots=True)
class ResilienceOptions:
    """The arguments of a pool manager that concern resilience."""

    session: SessionDefaults | None = None
    credentials: Credentials | None = None
    lifecycle: Lifecycle | None = None
    admission: Admission | None = None
    rate_limit: RateLimit | None = None
    breaker: Breaker | None = None
    report_every: float | None = None

    def __post_init__(self) -> None:
        """Check the arguments. Raises TypeError for one of a wrong type."""
        for name, kind in _KINDS.items():
            given = getattr(self, name)
            if given is not None and not isinstance(given, kind):
                msg = f"{name} must be a hasql.resilience.{kind.__name__}, not {given!r}"
                raise TypeError(msg)
        if self.report_every is not None:
            check_seconds("report_every", self.report_every, positive=True)
        if self.credentials is not None and not callable(self.credentials):
            raise TypeError("credentials must be a callable that returns a password")
