"""The arguments that a user gives for the driver's pools: which are accepted, with what values."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from hasql.errors import ConfigurationError

__all__ = (
    "ROUTING",
    "PoolSizes",
    "check_keywords",
    "check_sizes",
    "refuse_all",
    "refuse_keywords",
    "with_bounds",
)

ROUTING: Final[Mapping[str, str]] = {
    **dict.fromkeys(("dsn", "conninfo"), "the DSN is the pool manager's first argument"),
    **dict.fromkeys(("host", "hostaddr", "port"), "name the hosts in the DSN"),
    **dict.fromkeys(
        ("target_session_attrs", "load_balance_hosts"), "hasql itself chooses among the hosts"
    ),
    "loop": "a pool manager works in the event loop in which it is used first",
}
"""Arguments of drivers that say where to connect to and from where, and why hasql refuses them."""


def refuse_keywords(kwargs: Mapping[str, Any], reasons: Mapping[str, str], said: str) -> None:
    """Refuse arguments that are hasql's own business, with `said` about the name, and the reason.

    Raises ConfigurationError.
    """
    for name in kwargs:
        if name in reasons:
            raise ConfigurationError(f"{said.format(name)}: {reasons[name]}")


def refuse_all(kwargs: Mapping[str, Any], owner: str) -> None:
    """Refuse every argument, for a call of the driver's that takes none. Raises TypeError."""
    if kwargs:
        raise TypeError(f"{owner} takes no arguments, but got {', '.join(kwargs)}")


@dataclass(frozen=True, slots=True)
class PoolSizes:
    """The bounds of one pool, as the user gave them or as the driver defaults them."""

    minimum: int
    maximum: int


def with_bounds(
    kwargs: Mapping[str, Any],
    current: PoolSizes,
    bounds: tuple[int | None, int | None],
    names: tuple[str, str],
) -> dict[str, Any]:
    """Return a pool's arguments with other bounds, a minimum and a maximum. None: keep it."""
    minimum, maximum = bounds
    if maximum is None:
        maximum = current.maximum
    if minimum is None:
        minimum = min(current.minimum, maximum)
    return {**kwargs, names[0]: minimum, names[1]: maximum}


def check_keywords(kwargs: Mapping[str, Any], known: Collection[str], owner: str) -> None:
    """Refuse arguments that the driver's pool does not know.

    Raises ConfigurationError.
    """
    for name in kwargs:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            msg = f"pool_factory_kwargs: {owner} takes no argument {name!r}{hint}"
            raise ConfigurationError(msg)


def check_sizes(
    kwargs: Mapping[str, Any], minimum: tuple[str, int], maximum: tuple[str, int]
) -> PoolSizes:
    """Read a pool's bounds, each given by its name and the driver's default, and check them.

    If only the maximum is given and is below the default minimum, the minimum is lowered to it.

    Raises ConfigurationError.
    """
    (low, _), (high, _) = minimum, maximum
    most = kwargs.get(high, maximum[1])
    least = kwargs.get(low, min(minimum[1], most) if isinstance(most, int) else minimum[1])
    for name, value in ((low, least), (high, most)):
        if not isinstance(value, int) or isinstance(value, bool):
            msg = f"pool_factory_kwargs[{name!r}] must be an int, not {value!r}"
            raise ConfigurationError(msg)
    if not (0 <= least <= most and most >= 1):
        msg = (
            f"pool_factory_kwargs: {low}={least} and {high}={most} cannot work; "
            f"0 <= {low} <= {high} and {high} >= 1 must hold"
        )
        raise ConfigurationError(msg)
    return PoolSizes(least, most)
