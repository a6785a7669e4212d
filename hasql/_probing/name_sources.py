"""Where names are taken to lead: as a resolver of hasql's knows, or as the system does."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from hasql._probing.followed_names import NameSource
from hasql.dns import Answer, Resolver
from hasql.errors import MissingExtraError

__all__ = ("SystemNames", "source_of_names")

#: Seconds for which an answer of the system's is kept, which does not tell of a TTL.
_TTL = 30.0


def source_of_names(resolver: Resolver | None) -> Callable[[], NameSource]:
    """Return what makes the source that a manager asks: the given one, or the best there is.

    Raises TypeError.
    """
    if resolver is None:
        return _best_source
    if not isinstance(resolver, Resolver):
        msg = f"resolver must be a hasql.dns.Resolver, not {type(resolver).__name__}"
        raise TypeError(msg)
    return partial(_given, resolver)


def _given(resolver: Resolver) -> NameSource:
    return resolver


def _best_source() -> NameSource:
    try:
        return Resolver()
    except MissingExtraError:
        return SystemNames()


class SystemNames:
    """Names as the system's resolver knows them, which is asked in a thread of the event loop's."""

    async def lookup_async(self, host: str) -> Answer:
        """Return the addresses of a name, IPv4 first. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        found.sort(key=lambda each: each[0] != socket.AF_INET)
        return Answer(tuple(dict.fromkeys(str(address[0]) for *_, address in found)), _TTL)

    def expire(self, host: str) -> None:
        """Do nothing: nothing is kept."""
