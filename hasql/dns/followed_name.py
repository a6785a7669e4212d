"""A name that is followed: looked up in the background, so that who asks need not wait."""

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
    """What a name means now, and what it has left. Any thread and any event loop may ask.

    It is looked up again by the process's look-up thread until it is closed or collected.
    """

    def __init__(self, name: SharedName, owner: object) -> None:
        self._name = name
        # Which is told of forks, and of what is to be forgotten, for as long as it is there.
        self._owner = owner
        name.follow()
        self._end = finalize(self, lookup_thread.call_for_collector, name.unfollow)
        self._end.atexit = False

    def has_left(self, address: str) -> bool:
        """Whether the name leads to this address no more.

        False before the first answer. It neither waits nor raises.
        """
        name = self._name
        if name.forked:
            with suppress(RuntimeError):  # no thread can be started when Python ends
                name.begin()
        return name.known.history.has_left(address, name.clock())

    def addresses(self) -> tuple[str, ...]:
        """Return all addresses, for a new connection; the last known while they are looked up.

        It waits only before the first answer, and when the last one may not serve any more. Raises
        NameResolutionError.
        """
        known, pending = self._now()
        if known:
            return known
        return self._found(self._name.outcome() if pending is None else pending.result())

    async def addresses_async(self) -> tuple[str, ...]:
        """Return the same; while it waits the event loop goes on."""
        known, pending = self._now()
        if known:
            return known
        if pending is None:
            return self._found(self._name.outcome())
        return self._found(await asyncio.wrap_future(pending))

    def close(self) -> None:
        """Follow it no more. What is known can still be asked for."""
        if self._end.detach() is not None:
            self._name.unfollow()

    def _now(self) -> tuple[tuple[str, ...], Future[Known | Unknown] | None]:
        name, known = self._name, self._name.known
        now = name.clock()
        if known.is_fresh(now) and not name.forked:
            return known.addresses, None
        # The thread has done so by itself, but in a child, or if this process stood still.
        pending = name.begin()
        return (known.addresses if known.may_serve(now) else ()), pending

    def _found(self, outcome: Known | Unknown) -> tuple[str, ...]:
        return addresses_of(self._name.known.host, outcome).addresses


class FixedName(FollowedName):
    """An address in the place of a name: it leads to itself, always."""

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
    """Return what is known. Raises NameResolutionError if nothing is."""
    if isinstance(outcome, Known):
        return outcome
    raise resolution_error(host, outcome.said)


def resolution_error(host: str, said: tuple[str, ...]) -> NameResolutionError:
    """Make the error that tells what each one said who was asked."""
    told = "; ".join(dict.fromkeys(said)) or "nobody was asked yet"
    return NameResolutionError(f"{host!r} cannot be resolved: {told}")
