"""Checks of single values, as an application or a source of hosts gives them."""

from math import inf, isfinite

from hasql.errors import ConfigurationError

__all__ = ("check_count", "check_flag", "check_seconds", "check_share", "check_whole")


def check_flag(name: str, value: object) -> None:
    """Check that a value is True or False."""
    if not isinstance(value, bool):
        msg = f"{name} must be True or False, not {value!r}"
        raise TypeError(msg)


def check_seconds(name: str, value: object, *, positive: bool = False) -> float:
    """Check a duration in seconds and return it as a float."""
    if type(value) is float and 0.0 < value < inf:
        return value  # the usual case, when an acquire has a timeout of its own
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{name} must be a number of seconds, not {value!r}"
        raise TypeError(msg)
    if not isfinite(value) or value < 0 or (positive and value == 0):
        msg = f"{name} must be {'more than' if positive else 'at least'} 0 seconds, not {value!r}"
        raise ConfigurationError(msg)
    return float(value)


def check_share(name: str, value: object) -> float:
    """Check a probability, 0 to 1, and return it as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{name} must be a number from 0 to 1, not {value!r}"
        raise TypeError(msg)
    if not 0 <= value <= 1:
        msg = f"{name} must be from 0 to 1, not {value!r}"
        raise ConfigurationError(msg)
    return float(value)


def check_whole(name: str, value: object) -> int:
    """Check a whole number, positive or not."""
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} must be an int, not {value!r}"
        raise TypeError(msg)
    return value


def check_count(name: str, value: object, *, minimum: int = 0) -> int:
    """Check a whole number that has a minimum."""
    count = check_whole(name, value)
    if count < minimum:
        msg = f"{name} must be at least {minimum}, not {value!r}"
        raise ConfigurationError(msg)
    return count
