"""The user's options for probing, as plain values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

__all__ = ("ProbingOptions",)


@dataclass(frozen=True, slots=True)
class ProbingOptions:
    """How all hosts of one manager are probed. Durations are seconds."""

    refresh_delay: float
    refresh_timeout: float
    #: Over how many probes the median of the round trips is taken.
    stopwatch_window_size: int
    #: Arguments for the driver, which knows which of them apply to a reserved connection.
    pool_factory_kwargs: Mapping[str, Any]
    #: Takes passwords out of a text.
    hide: Callable[[str], str]
    clock: Callable[[], float]
    chance: Random
