"""The addresses of a host, and the choice of the one that libpq connects to."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from psycopg2 import extensions

from hasql._adapters.psycopg2.failure import failure_of
from hasql.cluster.host import is_address
from hasql.driver import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from hasql.driver import Endpoint

__all__ = ("Addresses",)

_T = TypeVar("_T")


#: Seconds that a connect may take at first while there is another address to try. The time doubles
#: each time that all addresses were too slow. Other drivers try the next address at the same time;
#: here the connects come one after the other, because each takes a place in aiopg's pool.
_FIRST_TIMEOUT = 0.3


class _Attempt(NamedTuple):
    """A task's connect to one address."""

    address: str
    limit: asyncio.Timeout
    #: Seconds that it may take; None: there is no limit.
    seconds: float | None

    def begin(self) -> None:
        """Start the time limit, now that the connect no longer waits for another one."""
        if self.seconds is not None:
            self.limit.reschedule(asyncio.get_running_loop().time() + self.seconds)


_attempt: ContextVar[_Attempt] = ContextVar("hasql_aiopg_attempt")


class Addresses:
    """The addresses of one host. If hasql does not follow the name, it is resolved here.

    This does not block. libpq itself would resolve the name in a call that blocks the event loop.
    It would then try one address after the other, each on a socket of its own, but aiopg listens
    only to the first.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        name = endpoint.host.host
        self._name = None if name.startswith("/") or is_address(name) else name
        #: The address that answered last, which is tried first, and its time limit in seconds.
        self._last: str | None = None
        self._timeout = _FIRST_TIMEOUT

    def choose(self, dsn: str) -> str:
        """Return the DSN with the address to connect to now."""
        attempt = _attempt.get(None)
        if attempt is None:
            return dsn
        attempt.begin()
        chosen: str = extensions.make_dsn(dsn, hostaddr=attempt.address)
        return chosen

    def has_left(self, address: str | None) -> bool:
        """Tell whether the name has moved away from an address that was chosen."""
        return self._endpoint.has_left(address)

    async def try_each(self, connect: Callable[[], Awaitable[_T]]) -> _T:
        """Connect to the first address that answers in time."""
        found: Sequence[str] = self._endpoint.addresses
        if self._name is not None and not found:
            resolved = await _resolve(self._name)
            found = sorted(resolved, key=lambda address: address != self._last)
        if not found:
            return await connect()
        timeouts = dict.fromkeys(found, _FIRST_TIMEOUT) | {self._last: self._timeout}
        turns = deque(found)
        while True:
            address = turns.popleft()
            limit = asyncio.timeout(None)
            attempt = _Attempt(address, limit, timeouts[address] if turns else None)
            token = _attempt.set(attempt)
            try:
                async with limit:
                    connected = await connect()
            except BaseException as error:
                if limit.expired() and isinstance(error, TimeoutError):
                    timeouts[address] *= 2
                    turns.append(address)
                elif not turns or failure_of(error) is not Failure.BROKEN:
                    raise
            else:
                self._last, self._timeout = address, timeouts[address]
                self._endpoint.note_connected(address)
                return connected
            finally:
                _attempt.reset(token)


async def _resolve(name: str) -> tuple[str, ...]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
