"""The rate limit: how many acquires there may be in a time."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ("RateLimit",)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most so many acquires in a time; see `docs/howto/overload`."""

    rate: str = "100/second"
    strategy: str = "token-bucket"
    storage: str = "memory://"
    key: Callable[[], str] | None = None
    wait: bool = True
    on_storage_error: str = "allow"
