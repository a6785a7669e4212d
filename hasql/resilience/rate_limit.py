"""The rate limit: how many acquires there may be in a time."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Final

from hasql.cluster.checks import check_flag
from hasql.cluster.redaction import redact
from hasql.errors import ConfigurationError
from hasql.resilience.rates import Rate

__all__ = ("IN_MEMORY", "TOKEN_BUCKET", "RateLimit")

TOKEN_BUCKET: Final = "token-bucket"  # noqa: S105  # no secret
IN_MEMORY: Final = "memory://"

_STRATEGIES = (TOKEN_BUCKET, "moving-window", "fixed-window", "sliding-window-counter")
_STORAGES = ("memory", "redis", "rediss", "redis+unix")


@dataclass(frozen=True, slots=True, repr=False)
class RateLimit:
    """Limits acquires to a rate. Each acquire takes one token, however often it tries inside.

    Args:
        rate: A count in a time: ``100/second``, ``10 per minute``, ``5/2 hours``.
        strategy: ``token-bucket`` lets a whole burst through and then as many acquires as the rate
            says; it works in memory only. ``moving-window``, ``fixed-window`` and
            ``sliding-window-counter`` are the strategies of the `limits` library, and need
            ``pip install 'hasql[limits]'``.
        storage: ``memory://`` for this manager alone, or the URL of a Redis server, such as
            ``redis://host:6379/0``, for a rate that all processes share which name that URL. Redis
            needs one of the strategies of the `limits` library.
        key: A function that is called without arguments for each acquire and returns a str, such
            as a tenant's name. Each str has a rate of its own. None: all acquires share one rate.
        wait: Whether an acquire waits for its token; if not, it is refused.
        on_storage_error: Whether acquires are let through (``allow``) or refused (``refuse``) while
            the storage fails.
    """

    rate: str = "100/second"
    strategy: str = TOKEN_BUCKET
    storage: str = IN_MEMORY
    key: Callable[[], str] | None = None
    wait: bool = True
    on_storage_error: str = "allow"

    def __post_init__(self) -> None:
        """Check the values. Raises ConfigurationError, and TypeError for wrong types."""
        Rate.parse(self.rate)
        _check_choice("strategy", self.strategy, _STRATEGIES)
        _check_choice("on_storage_error", self.on_storage_error, ("allow", "refuse"))
        check_flag("wait", self.wait)
        if not isinstance(self.storage, str):
            raise TypeError('storage must be a str, such as "memory://" or "redis://host:6379/0"')
        scheme = self.storage.partition("://")[0]
        if scheme not in _STORAGES or "://" not in self.storage:
            msg = (
                f"storage must be {IN_MEMORY!r} or a URL of Redis (redis://, rediss:// or "
                f"redis+unix://), not {self.shown_storage!r}"
            )
            raise ConfigurationError(msg)
        if self.strategy == TOKEN_BUCKET and self.storage != IN_MEMORY:
            msg = (
                f"{TOKEN_BUCKET!r} works only in memory; for a storage that processes share, "
                f"choose one of the strategies {', '.join(map(repr, _STRATEGIES[1:]))}"
            )
            raise ConfigurationError(msg)
        if self.key is not None and (not callable(self.key) or iscoroutinefunction(self.key)):
            msg = f"key must be a plain function without arguments, not {self.key!r}"
            raise TypeError(msg)

    @property
    def is_in_buckets(self) -> bool:
        """Whether hasql's own token buckets keep the rate; if not, the `limits` library does."""
        return self.strategy == TOKEN_BUCKET

    @property
    def shown_storage(self) -> str:
        """The storage, without its password."""
        return redact(self.storage, (), ())

    def __repr__(self) -> str:
        return (
            f"RateLimit(rate={self.rate!r}, strategy={self.strategy!r}, "
            f"storage={self.shown_storage!r}, key={self.key!r}, wait={self.wait!r}, "
            f"on_storage_error={self.on_storage_error!r})"
        )


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        msg = f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}"
        raise (ConfigurationError if isinstance(value, str) else TypeError)(msg)
