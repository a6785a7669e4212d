"""The user's options for leases, and what `_leasing` calls of its manager."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from hasql._probing.schedule import Evidence
from hasql.cluster.host import HostSpec
from hasql.errors import NotAvailableError

__all__ = ("InLoop", "LeasingOptions", "ManagerCalls", "Signal")


class Signal(Protocol):
    """Takes note of a possible change on a host; returns whether the host is probed at once."""

    def __call__(self, host: HostSpec, evidence: Evidence | None = None, /) -> bool:
        """Take note of what a lease has met, or of what a connection has shown."""
        ...


class InLoop(Protocol):
    """Calls a function in the manager's event loop soon; from any thread, without waiting.

    Once the loop has ended, the function is not called.
    """

    def __call__(self, function: Callable[..., object], /, *args: Any) -> None:
        """Have a function called with these arguments."""

    def call_later(self, seconds: float, function: Callable[..., object], /, *args: Any) -> None:
        """Have a function called after so many seconds; to be called in the loop only."""


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
    """The functions of its manager that a checkout calls."""

    #: Starts the manager unless it has started; refuses another event loop, and a closed manager.
    ensure_started: Callable[[], object]
    signal: Signal
    #: Makes the error that says what was not available, and in what state every host is.
    not_available: Callable[[str], NotAvailableError]
