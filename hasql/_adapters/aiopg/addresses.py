"""The addresses of a host: to which of them libpq is to connect."""

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


#: Seconds that a connect may take at first while there is another address to try; it doubles each
#: time that all were too slow. Some drivers try the next one beside it; libpq's connections are
#: made one by one, as each has a place in aiopg's pool.
_FIRST_TIMEOUT = 0.3


class _Attempt(NamedTuple):
    """The connect of a task to one address."""

    address: str
    limit: asyncio.Timeout
    #: Seconds that it may take; None: as long as it takes.
    seconds: float | None

    def begin(self) -> None:
        """Let the time begin, now that it need not wait for another connect any more."""
        if self.seconds is not None:
            self.limit.reschedule(asyncio.get_running_loop().time() + self.seconds)


_attempt: ContextVar[_Attempt] = ContextVar("hasql_aiopg_attempt")


class Addresses:
    """The addresses of one host. Where nobody follows its name, it is resolved without blocking.

    libpq itself would resolve the name in a call that blocks the event loop. It would then try one
    address after the other, each on a socket of its own, and aiopg listens to the first alone.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        name = endpoint.host.host
        self._name = None if name.startswith("/") or is_address(name) else name
        #: The address that answered last, which is tried first, and how long that might take.
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
