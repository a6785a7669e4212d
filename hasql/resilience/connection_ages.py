"""The ages of the connections of one pool: when each is too old, and when it must be tested."""

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Any

from hasql.driver import Driver
from hasql.errors import ConfigurationError
from hasql.resilience.lifecycle import Lifecycle

__all__ = ("ConnectionAges", "upkeep_limits", "with_pool_limits")


@dataclass(slots=True)
class _Age:
    """The times of one connection, by the clock."""

    #: When the connection was first seen.
    first_seen: float
    #: When it was last used, and when it was last used or gave a sign of life.
    used_at: float
    alive_at: float
    #: The share of each limit that applies to this connection.
    share: float


class ConnectionAges:
    """Knows the ages of one pool's connections.

    `max_lifetime` and `max_idle` are None if the driver's pool enforces that limit itself, or if
    there is none.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        max_lifetime: float | None,
        max_idle: float | None,
        clock: Callable[[], float],
        chance: Random,
    ) -> None:
        self._max_lifetime = max_lifetime or inf
        self._max_idle = max_idle or inf
        self._check_idle = lifecycle.check_idle or inf
        self._jitter = lifecycle.jitter
        self._clock = clock
        self._chance = chance
        self._ages: dict[Hashable, _Age] = {}

    def track(self, keys: Collection[Hashable]) -> None:
        """Note which connections are open, by their keys, and forget all others."""
        now = self._clock()
        for gone in self._ages.keys() - set(keys):
            self._ages.pop(gone, None)
        for key in keys:
            if key not in self._ages:
                share = 1.0 - self._jitter * self._chance.random()
                self._ages[key] = _Age(now, now, now, share)

    def note_use(self, key: Hashable) -> None:
        """Note that a connection was used until now."""
        age = self._ages.get(key)
        if age is not None:
            age.used_at = age.alive_at = self._clock()

    def note_alive(self, key: Hashable) -> None:
        """Note that a connection has just given a sign of life."""
        age = self._ages.get(key)
        if age is not None:
            age.alive_at = self._clock()

    def is_old(self, key: Hashable) -> bool:
        """Tell whether a connection is older than `max_lifetime` allows, in use or not."""
        age = self._ages.get(key)
        return age is not None and self._clock() - age.first_seen >= self._max_lifetime * age.share

    def must_be_closed(self, key: Hashable) -> bool:
        """Tell whether an idle connection must be closed: too old, or idle for too long."""
        age = self._ages.get(key)
        if age is None:
            return False
        return self.is_old(key) or self._clock() - age.used_at >= self._max_idle * age.share

    def must_be_tested(self, key: Hashable) -> bool:
        """Tell whether an idle connection must be tested for a sign of life."""
        age = self._ages.get(key)
        return age is not None and self._clock() - age.alive_at >= self._check_idle * age.share


def with_pool_limits(
    kwargs: Mapping[str, Any],
    lifecycle: Lifecycle | None,
    ages: Mapping[str, tuple[str, bool]],
) -> Mapping[str, Any]:
    """Add to a pool's arguments the limits that it can enforce itself; see `Driver.ages`.

    Raises ConfigurationError if the application has given the pool another value.
    """
    if lifecycle is None:
        return kwargs
    given: dict[str, Any] = {}
    for name, (keyword, does_it) in ages.items():
        seconds = getattr(lifecycle, name)
        if seconds is None:
            continue
        if kwargs.get(keyword, seconds) != seconds:
            msg = (
                f"Lifecycle({name}={seconds!r}) and "
                f"pool_factory_kwargs[{keyword!r}]={kwargs[keyword]!r} set the same thing to "
                "different values: leave one of them out"
            )
            raise ConfigurationError(msg)
        if does_it:
            given[keyword] = seconds
    return {**kwargs, **given} if given else kwargs


def upkeep_limits(
    lifecycle: Lifecycle, driver: Driver[Any, Any]
) -> tuple[float | None, float | None]:
    """Return `max_lifetime` and `max_idle`, each None if the driver's pool enforces it itself."""
    lifetime, idle = (
        None if driver.ages.get(name, ("", False))[1] else getattr(lifecycle, name)
        for name in ("max_lifetime", "max_idle")
    )
    if driver.checks_count_as_use and lifecycle.check_idle is not None:
        # The pool takes each test for a use, so to it no connection would ever be idle for long.
        idle = lifecycle.max_idle
    return lifetime, idle
