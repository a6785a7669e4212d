"""The settings of a resolver, checked."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from hasql.cluster.checks import check_count, check_flag, check_seconds
from hasql.dns.nameservers import Nameserver, parse_nameservers

__all__ = ("ResolverSettings",)


@dataclass(frozen=True, slots=True)
class ResolverSettings:
    """How a resolver asks, and how long an old answer serves. Durations are seconds."""

    timeout: float
    #: The nameservers to ask; None: those of resolv.conf.
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
        """Check the values that a user gave; `prefix` begins the arguments' names in errors.

        Raises ConfigurationError for impossible values and TypeError for wrong types.
        """
        check_flag(f"{prefix}fallback", fallback)
        check_flag(f"{prefix}extend_grace", extend_grace)
        return cls(
            timeout=check_seconds(f"{prefix}timeout", timeout, positive=True),
            nameservers=parse_nameservers(f"{prefix}nameservers", nameservers),
            grace_ttl=check_seconds(f"{prefix}grace_ttl", grace_ttl),
            fallback=fallback,
            max_retries=check_count(f"{prefix}max_retries", max_retries, minimum=1),
            extend_grace=extend_grace,
        )
