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

__all__ = ("Addresses",)

_T = TypeVar("_T")


class Addresses:
    """The addresses of one host. They are resolved without blocking, and libpq is given one.

    libpq itself would resolve the name in a call that blocks the event loop. It would then try one
    address after the other, each on a socket of its own, and aiopg listens to the first alone.
    """

    def __init__(self, dsn: str) -> None:
        options = extensions.parse_dsn(dsn)
        name = options.get("host", "")
        is_name = name and not name.startswith(("/", "@")) and "hostaddr" not in options
        self._name: str | None = name if is_name and not _is_address(name) else None
        self._all: list[str] = []

    def choose(self, dsn: str) -> str:
        """Return the DSN with the address to connect to now."""
        if not self._all:
            return dsn
        chosen: str = extensions.make_dsn(dsn, hostaddr=self._all[0])
        return chosen

    async def try_each(self, connect: Callable[[], Awaitable[_T]]) -> _T:
        """Connect to the first address that answers. One that did not is tried last hereafter."""
        if self._name is not None:
            await self._resolve(self._name)
        for others in reversed(range(max(1, len(self._all)))):
            try:
                return await connect()
            except BaseException as error:
                self._all = self._all[1:] + self._all[:1]
                if not others or failure_of(error) is not Failure.BROKEN:
                    raise
        raise AssertionError("unreachable")

    async def _resolve(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        addresses = dict.fromkeys(str(address[0]) for *_, address in found)
        if set(addresses) != set(self._all):
            self._all = list(addresses)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
