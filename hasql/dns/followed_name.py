"""A name that is followed: looked up in the background, so that callers need not wait."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import finalize

from hasql.dns.background import lookup_thread
from hasql.dns.known_name import Known, Unknown
from hasql.errors import NameResolutionError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from hasql.dns.shared_name import SharedName

__all__ = ("FixedName", "FollowedName", "addresses_of", "resolution_error")


class FollowedName:
    """The addresses that a name leads to now, and whether it has left others.

    Any thread and any event loop may use it. The process's look-up thread looks the name up again
    and again, until this object is closed or garbage-collected.
    """

    def __init__(self, name: SharedName, owner: object) -> None:
        self._name = name
        # Kept alive, because the resolver tells the name of forks and of `clear_dns_cache`.
        self._owner = owner
        name.follow()
        self._end = finalize(self, lookup_thread.call_for_collector, name.unfollow)
        self._end.atexit = False

    def has_left(self, address: str) -> bool:
        """Whether the name no longer leads to this address.

        False before the first answer. This method neither waits nor raises.
        """
        name = self._name
        if name.forked:
            with suppress(RuntimeError):  # Python is shutting down and starts no thread
                name.begin()
        return name.known.history.has_left(address, name.clock())

    def addresses(self) -> tuple[str, ...]:
        """Return all addresses, for a new connection.

        While the name is being looked up, the last known addresses are returned. The call waits
        only before the first answer, and when the last answer may not serve any longer. Raises
        NameResolutionError if nothing is known of the name.
        """
        known, pending = self._now()
        if known:
            return known
        return self._found(self._name.outcome() if pending is None else pending.result())

    async def addresses_async(self) -> tuple[str, ...]:
        """Do as `addresses` without blocking the event loop."""
        known, pending = self._now()
        if known:
            return known
        if pending is None:
            return self._found(self._name.outcome())
        return self._found(await asyncio.wrap_future(pending))

    def close(self) -> None:
        """Stop following the name. The other methods can still be called."""
        if self._end.detach() is not None:
            self._name.unfollow()

    def _now(self) -> tuple[tuple[str, ...], Future[Known | Unknown] | None]:
        name, known = self._name, self._name.known
        now = name.clock()
        if known.is_fresh(now) and not name.forked:
            return known.addresses, None
        # The look-up thread has normally begun a look-up by itself. It has not in a forked child,
        # or if this process was suspended.
        pending = name.begin()
        return (known.addresses if known.may_serve(now) else ()), pending

    def _found(self, outcome: Known | Unknown) -> tuple[str, ...]:
        return addresses_of(self._name.known.host, outcome).addresses


class FixedName(FollowedName):
    """An address in place of a name: it always leads to itself."""

    def __init__(self, address: str) -> None:
        self._addresses = (address,)

    def has_left(self, address: str) -> bool:  # noqa: ARG002  # whatever it is, nothing has moved
        """Return False."""
        return False

    def addresses(self) -> tuple[str, ...]:
        """Return the address."""
        return self._addresses

    async def addresses_async(self) -> tuple[str, ...]:
        """Return the address."""
        return self._addresses

    def close(self) -> None:
        """Do nothing."""


def addresses_of(host: str, outcome: Known | Unknown) -> Known:
    """Return the outcome if it is `Known`. Raises NameResolutionError if not."""
    if isinstance(outcome, Known):
        return outcome
    raise resolution_error(host, outcome.reasons)


def resolution_error(host: str, reasons: tuple[str, ...]) -> NameResolutionError:
    """Make the error that says what each source said."""
    told = "; ".join(dict.fromkeys(reasons)) or "no nameserver has been asked yet"
    return NameResolutionError(f"{host!r} cannot be resolved: {told}")
