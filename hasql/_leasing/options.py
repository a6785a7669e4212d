"""What the leasing wing is told of the user's wishes, and what it calls of its manager."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from hasql._probing.schedule import Evidence
from hasql.cluster.host import HostSpec
from hasql.errors import NotAvailableError

__all__ = ("InLoop", "LeasingOptions", "ManagerCalls", "Signal")


class Signal(Protocol):
    """Takes note of what may be a change on a host; returns whether it is probed at once."""

    def __call__(self, host: HostSpec, evidence: Evidence | None = None, /) -> bool:
        """Take note of what a lease has met, or of what a connection has shown."""
        ...


class InLoop(Protocol):
    """Has a function called in the manager's event loop soon; from any thread, without waiting.

    Nothing happens once the loop has ended.
    """

    def __call__(self, function: Callable[..., object], /, *args: Any) -> None:
        """Have it called with these arguments."""

    def call_later(self, seconds: float, function: Callable[..., object], /, *args: Any) -> None:
        """Have it called after so many seconds; to be called in the loop itself."""


@dataclass(frozen=True, slots=True)
class LeasingOptions:
    """How connections are lent. Durations are seconds."""

    acquire_timeout: float
    release_timeout: float
    #: Takes passwords out of a text.
    hide: Callable[[str], str]
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True)
class ManagerCalls:
    """What a checkout calls of its manager."""

    #: Starts the manager unless it has started; refuses another event loop, and a closed manager.
    enter: Callable[[], object]
    signal: Signal
    #: Makes the error that says what was not to be had, and where every host stands.
    not_available: Callable[[str], NotAvailableError]
