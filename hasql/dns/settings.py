"""The settings of a resolver, checked."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Self

from hasql.dns.nameservers import Nameserver, parse_nameservers
from hasql.errors import ConfigurationError

__all__ = ("ResolverSettings",)


@dataclass(frozen=True, slots=True)
class ResolverSettings:
    """How a resolver asks, and how long an old answer serves. Durations are seconds."""

    timeout: float
    #: None: those of resolv.conf.
    nameservers: tuple[Nameserver, ...] | None
    grace_ttl: float
    fallback: bool
    max_retries: int
    extend_grace: bool

    @classmethod
    def checked(  # noqa: PLR0913  # one for each setting
        cls,
        *,
        timeout: float,
        nameservers: Iterable[str] | None,
        grace_ttl: float,
        fallback: bool,
        max_retries: int,
        extend_grace: bool,
        prefix: str = "",
    ) -> Self:
        """Read what a user gave; `prefix` is what the arguments' names begin with there.

        Raises ConfigurationError for impossible values and TypeError for wrong types.
        """
        for name, flag in (("fallback", fallback), ("extend_grace", extend_grace)):
            if not isinstance(flag, bool):
                msg = f"{prefix}{name} must be True or False, not {flag!r}"
                raise TypeError(msg)
        return cls(
            timeout=_seconds(f"{prefix}timeout", timeout, positive=True),
            nameservers=parse_nameservers(f"{prefix}nameservers", nameservers),
            grace_ttl=_seconds(f"{prefix}grace_ttl", grace_ttl),
            fallback=fallback,
            max_retries=_attempts(f"{prefix}max_retries", max_retries),
            extend_grace=extend_grace,
        )


def _seconds(name: str, value: object, *, positive: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{name} must be a number of seconds, not {value!r}"
        raise TypeError(msg)
    if not isfinite(value) or value < 0 or (positive and value == 0):
        msg = f"{name} must be {'more than' if positive else 'at least'} 0 seconds, not {value!r}"
        raise ConfigurationError(msg)
    return float(value)


def _attempts(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} must be an int, not {value!r}"
        raise TypeError(msg)
    if value < 1:
        msg = f"{name} counts the attempts in all, so it must be at least 1, not {value!r}"
        raise ConfigurationError(msg)
    return value
