"""A source of hosts that looks a name up each time the TTL of its last answer ends."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import suppress
from random import Random
from typing import Final

from hasql.cluster.discovered import Discovered
from hasql.cluster.host import is_address, parse_host
from hasql.discovery.contract import Discovery
from hasql.dns import Resolver
from hasql.errors import ConfigurationError

__all__ = ("NameDiscovery", "checked_name")

#: The least pause between two look-ups in seconds, and the largest share of that pause by which
#: the next one is delayed at random, so that processes started together do not ask together.
_LEAST_PAUSE: Final = 1.0
_JITTER: Final = 0.1


class NameDiscovery(Discovery):
    """A source that looks a name up again and again.

    Args:
        name: The name to look up.
        resolver: Looks the name up; None: a `Resolver` with default settings.

    Raises:
        MissingExtraError: dnspython is not installed.
        TypeError: `resolver` is not a Resolver.
    """

    def __init__(self, name: str, resolver: Resolver | None) -> None:
        if not isinstance(resolver, Resolver | None):
            raise TypeError(f"resolver must be a hasql.dns.Resolver, not {resolver!r}")
        self.name = name
        self.resolver = resolver or Resolver()
        self._chance = Random()  # noqa: S311  # no secret
        #: Ends the pause that is under way.
        self._pause_end: asyncio.Future[None] | None = None

    @abstractmethod
    async def look_up(self) -> tuple[list[Discovered], float]:
        """Return the hosts, and the seconds for which they may be kept.

        The hosts are sorted, so that a nameserver that rotates its answers changes nothing.
        """

    async def watch(self) -> AsyncIterator[tuple[Discovered, ...]]:
        """Yield the hosts each time the name has been looked up.

        Raises NameResolutionError if the name cannot be resolved or the answer is empty.
        """
        while True:
            hosts, ttl = await self.look_up()
            yield tuple(hosts)
            seconds = max(ttl, _LEAST_PAUSE) * self._chance.uniform(1.0, 1.0 + _JITTER)
            self._pause_end = asyncio.get_running_loop().create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # wait_for() of 3.11 may lose a cancellation
                    await self._pause_end

    def refresh(self) -> None:
        """Look the name up now."""
        self.resolver.expire(self.name)
        if self._pause_end is not None and not self._pause_end.done():
            self._pause_end.set_result(None)

    def __str__(self) -> str:
        """Return the class and the name."""
        return f"{type(self).__name__}({self.name!r})"


def checked_name(name: str) -> str:
    """Return a name in the form in which it is looked up: lower case, without a trailing dot.

    Raises ConfigurationError for anything but a plain name: an address, a port, a socket.
    """
    host = parse_host(name, 0)
    if is_address(host.host):
        raise ConfigurationError(f"{name!r} is an address; give a name, or use StaticDiscovery")
    if host.port or host.address or host.host.startswith("/"):
        raise ConfigurationError(f"{name!r} must be a name alone, without a port or an address")
    return host.host.rstrip(".")
