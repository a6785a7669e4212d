"""A resolver that uses a test's own hosts file, resolv.conf and clock."""

from __future__ import annotations

import gc
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from hasql.dns import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from testbed.nameserver import NameServer

__all__ = ("ManualClock", "resolver_on", "thread_of_lookups", "until_no_lookups")


class ManualClock:
    """A clock that advances only when it is told to."""

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
    """Make a resolver that reads ``hosts`` and ``resolv.conf`` of a directory, if they exist.

    Unless `settings` say otherwise, it asks only this nameserver, and never the system.
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


def thread_of_lookups() -> threading.Thread | None:
    """Return the thread that looks names up in the background; it may be about to end."""
    return next((each for each in threading.enumerate() if each.name == "hasql-dns"), None)


def until_no_lookups() -> None:
    """Wait until no name is followed or looked up any more: the thread for that has ended."""
    if thread_of_lookups() is None:
        return
    gc.collect()
    if (thread := thread_of_lookups()) is not None:
        thread.join(1)
    if thread_of_lookups() is not None:
        # An engine of another test follows its name until it is collected. The objects that the
        # collector leaves out are many, so they are looked at only now, and left out again.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
    while (thread := thread_of_lookups()) is not None:
        # Another test's lookup may still be under way, and nothing ends it early.
        thread.join(40)
        assert not thread.is_alive(), "something is still followed"
