"""A resolver that sees a machine of the test's: its hosts file, its resolv.conf, its time."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from hasql.dns import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from testbed.nameserver import NameServer

__all__ = ("ManualClock", "resolver_on")


class ManualClock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def resolver_on(
    machine: Path,
    nameserver: NameServer | None,
    *,
    clock: Callable[[], float] = monotonic,
    **settings: Any,
) -> Resolver:
    """Make a resolver that reads ``hosts`` and ``resolv.conf`` of this directory, if there are any.

    Without another word it asks this nameserver alone, and never the system.
    """

    class ResolverOnMachine(Resolver):
        @staticmethod
        def _clock() -> Callable[[], float]:
            return clock

        @staticmethod
        def _files() -> tuple[str, str]:
            return str(machine / "hosts"), str(machine / "resolv.conf")

    if nameserver is not None:
        settings.setdefault("nameservers", [nameserver.address])
    settings.setdefault("fallback", False)
    return ResolverOnMachine(**settings)
