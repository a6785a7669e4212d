"""The addresses of a host: to which of them libpq is to connect."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeVar

from psycopg2 import extensions  # type: ignore[import-untyped]

from hasql._adapters.aiopg.failure import failure_of
from hasql.driver import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hasql.driver import Endpoint

__all__ = ("Addresses",)

_T = TypeVar("_T")


#: Seconds that a connect may take while there is another address to try. Some drivers try the next
#: one beside it; libpq's connections are made one by one, as each has a place in aiopg's pool.
_PATIENCE = 0.3


class Addresses:
    """The addresses of one host. Where nobody follows its name, it is resolved without blocking.

    libpq itself would resolve the name in a call that blocks the event loop. It would then try one
    address after the other, each on a socket of its own, and aiopg listens to the first alone.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        name = endpoint.host.host
        self._name = None if name.startswith("/") or _is_address(name) else name
        self._all: list[str] = []

    def choose(self, dsn: str) -> str:
        """Return the DSN with the address to connect to now."""
        if not self._all:
            return dsn
        chosen: str = extensions.make_dsn(dsn, hostaddr=self._all[0])
        return chosen

    async def try_each(self, connect: Callable[[], Awaitable[_T]]) -> _T:
        """Connect to the first address that answers. One that did not is tried last hereafter."""
        found = self._endpoint.addresses
        if self._name is not None and not found:
            found = await _resolve(self._name)
        if set(found) != set(self._all):
            self._all = list(found)
        for others in reversed(range(max(1, len(self._all)))):
            try:
                async with asyncio.timeout(_PATIENCE if others else None):
                    return await connect()
            except BaseException as error:
                self._all = self._all[1:] + self._all[:1]
                if not others or failure_of(error) is not Failure.BROKEN:
                    raise
        raise AssertionError("unreachable")


async def _resolve(name: str) -> tuple[str, ...]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
