"""The arguments of engines and sessions: which are accepted, and how large they make the pool."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from hasql.driver import PoolSizes, check_keywords
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ("check_arguments", "refuse_binds", "refuse_for_routing", "resized", "sizes_of")

_POOL_SIZE = 5
_MAX_OVERFLOW = 10
#: The largest `max_connections` of PostgreSQL, which stands for "no limit".
_NO_LIMIT = 262_143
#: The arguments that SQLAlchemy's `create_engine` takes for itself and for its queue pool.
_OF_POOLS = {
    "connect_args",
    "echo_pool",
    "empty_in_strategy",
    "enable_from_linting",
    "future",
    "max_overflow",
    "plugins",
    "pool_events",
    "pool_logging_name",
    "pool_pre_ping",
    "pool_recycle",
    "pool_reset_on_return",
    "pool_size",
    "pool_timeout",
    "pool_use_lifo",
}
#: Arguments that hasql decides: each host has a queue pool, and hasql opens its connections.
_OURS = {"async_creator", "creator", "dbapi", "dialect", "module", "pool", "poolclass", "url"}


def check_arguments(kwargs: Mapping[str, Any], dialect: type, *, create: str) -> None:
    """Refuse arguments that SQLAlchemy's function `create` does not know, or that hasql decides.

    Raises ConfigurationError.
    """
    for name in sorted(_OURS & kwargs.keys()):
        raise ConfigurationError(
            f"pool_factory_kwargs: {name!r} cannot be given: hasql makes one queue pool for each "
            "host, and opens its connections with connect_args"
        )
    known = {*_OF_POOLS, *_parameters(dialect), *_parameters(Engine)} - _OURS
    check_keywords(kwargs, known, create)


def sizes_of(kwargs: Mapping[str, Any]) -> PoolSizes:
    """Return the bounds of the pool. Raises ConfigurationError."""
    size = _integer(kwargs, "pool_size", _POOL_SIZE, 0)
    overflow = _integer(kwargs, "max_overflow", _MAX_OVERFLOW, -1)
    return PoolSizes(0, _NO_LIMIT if size == 0 or overflow == -1 else size + overflow)


def resized(kwargs: Mapping[str, Any], minimum: int | None, maximum: int | None) -> dict[str, Any]:
    """Return a pool's arguments with new bounds; None keeps one. Raises ConfigurationError."""
    if minimum:
        raise ConfigurationError(
            "min_size: SQLAlchemy's queue pool has no minimum size; give max_size"
        )
    if maximum is None:
        return dict(kwargs)
    size = _integer(kwargs, "pool_size", _POOL_SIZE, 0) or maximum
    kept = min(size, maximum)
    return {**kwargs, "pool_size": kept, "max_overflow": maximum - kept}


def refuse_binds(kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that bind a session to something else. Raises ConfigurationError."""
    for name in ("bind", "binds"):
        if name in kwargs:
            msg = (
                f"a session made by hasql gets its connection from the pool manager: drop {name!r}"
            )
            raise ConfigurationError(msg)


def refuse_for_routing(kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that routed sessions cannot support. Raises ConfigurationError."""
    if kwargs.get("twophase"):
        raise ConfigurationError(
            "a session that routes itself cannot commit in two phases: drop 'twophase', or use "
            'route="explicit"'
        )


def _parameters(whose: type) -> Iterator[str]:
    for each in whose.__mro__:
        if "__init__" in vars(each):
            yield from signature(each).parameters


def _integer(kwargs: Mapping[str, Any], name: str, default: int, least: int) -> int:
    value = kwargs.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        msg = f"pool_factory_kwargs[{name!r}] must be an int, {least} or more, not {value!r}"
        raise ConfigurationError(msg)
    return value
