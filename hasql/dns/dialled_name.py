"""How a driver is told which of a name's addresses to dial, and where its connection then leads.

The name stays what TLS, password files and Kerberos go by.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

from hasql.cluster.names import plain_address
from hasql.dns.dialling import dial, reachable_first, reachable_first_async
from hasql.driver.addressed_loop import AddressedLoop

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from hasql.dns.followed_name import FollowedName

__all__ = ("DialledName", "name_in", "tell", "tell_async")

_OF_LIBPQ = frozenset({"psycopg", "psycopg2", "psycopg2cffi"})
_PORT = 5432
#: The key of what is kept with a place in the pool.
_REFUSED = "hasql.dns.refused"
#: Arguments that say where to connect to, whatever the host.
_INSTEAD_OF_HOST = ("hostaddr", "sock", "unix_sock", "unix_socket")


class DialledName:
    """The name by which one connection was opened, and the addresses to which it may lead.

    There is one such address where the driver is told which to dial, or tells which it has dialled.
    """

    __slots__ = (
        *("__weakref__", "_followed", "_in_place", "_loop"),
        *("addresses", "driver", "excused", "host"),
    )

    def __init__(
        self,
        driver: str,
        host: str,
        followed: FollowedName,
        addresses: Sequence[str],
        loop: AddressedLoop | None = None,
    ) -> None:
        self.driver = driver
        self.host = host
        self.addresses = tuple(map(plain_address, addresses))
        #: Whether its first checkout passes in any case: the one before it was refused.
        self.excused = False
        self._followed = followed
        self._loop = loop
        self._in_place: dict[Any, Any] = {}

    def put_in(self, place: dict[Any, Any]) -> None:
        """Take over from the connection that had this place in the pool before."""
        self._in_place = place
        self.excused = place.pop(_REFUSED, False)

    def refused(self) -> None:
        """Let the next connection in this place pass at its first checkout."""
        self._in_place[_REFUSED] = True

    def connected(self, connection: Any) -> None:
        """Take note of where the driver's connection leads, if it tells."""
        if self.driver in _OF_LIBPQ:
            peer: str | None = _peer_of(connection.fileno())
        elif self._loop is not None:
            peer, self._loop = self._loop.address, None
        else:
            return
        if peer is not None and (peer := plain_address(peer)) in self.addresses:
            self.addresses = (peer,)

    def abort(self) -> None:
        """End what a connect that has failed may have left open; see `AddressedLoop.abort`."""
        if self._loop is not None:
            self._loop.abort()

    def has_left(self) -> bool:
        """Whether the name leads no more to where this connection leads."""
        has_left = self._followed.has_left
        for address in self.addresses:  # noqa: SIM110 - `all` would take twice as long
            if not has_left(address):
                return False
        return True


def name_in(driver: str, arguments: MutableMapping[str, Any]) -> str | None:
    """Return the name that a driver would look up; None: an address, a socket, several hosts."""
    host = arguments.get("host")
    if not isinstance(host, str) or not host or host[0] in "/@" or "," in host:
        return None
    if any(arguments.get(each) is not None for each in _INSTEAD_OF_HOST):
        return None
    if driver in _OF_LIBPQ and os.environ.get("PGHOSTADDR"):
        return None
    return None if _is_address(host) else host


def tell(
    driver: str, arguments: MutableMapping[str, Any], followed: FollowedName, dbapi: Any
) -> DialledName:
    """Put into the driver's arguments what it dials instead of looking up the host.

    Raises:
        NameResolutionError: nothing is known of the name.
        OSError: as an error of the driver's, where its socket is ours and none could be opened.
    """
    host, addresses = arguments["host"], followed.addresses()
    if driver == "pg8000":
        address = _open_socket(arguments, addresses, dbapi)
        return DialledName(driver, host, followed, [address])
    if driver in _OF_LIBPQ:
        _set_hostaddr(arguments, reachable_first(addresses, _port(arguments)))
    return DialledName(driver, host, followed, addresses)


async def tell_async(
    driver: str, arguments: MutableMapping[str, Any], followed: FollowedName
) -> DialledName:
    """Do as `tell` for a driver of asyncio's."""
    host, addresses = arguments["host"], await followed.addresses_async()
    if driver in _OF_LIBPQ:
        _set_hostaddr(arguments, await reachable_first_async(addresses, _port(arguments)))
    elif driver == "asyncpg":
        first = (await reachable_first_async(addresses, _port(arguments)))[0]
        loop = arguments.get("loop") or asyncio.get_running_loop()
        arguments["loop"] = addressed = AddressedLoop(loop, host, first)
        return DialledName(driver, host, followed, addresses, addressed)
    return DialledName(driver, host, followed, addresses)


def _set_hostaddr(arguments: MutableMapping[str, Any], addresses: Sequence[str]) -> None:
    """Give libpq all addresses, which it tries in turn, each with the same name."""
    arguments["host"] = ",".join([arguments["host"]] * len(addresses))
    arguments["hostaddr"] = ",".join(addresses)


def _open_socket(arguments: MutableMapping[str, Any], addresses: Sequence[str], dbapi: Any) -> str:
    """Give pg8000 a socket as it would have made itself, and return where it leads."""
    port, seconds = int(arguments.get("port") or _PORT), arguments.get("timeout")
    source = arguments.get("source_address")
    try:
        sock, address = dial(addresses, port, seconds=seconds, source=source)
    except OSError as error:
        places = ", ".join(addresses)
        raise dbapi.InterfaceError(
            f"cannot connect to {arguments['host']} at {places}, port {port}: {error}"
        ) from error
    sock.settimeout(seconds)
    if arguments.get("tcp_keepalive", True):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    arguments["sock"] = sock
    return address


def _port(arguments: MutableMapping[str, Any]) -> int:
    try:
        return int(arguments.get("port") or _PORT)
    except (TypeError, ValueError):
        return _PORT  # what is wrong with it, the driver will say


def _peer_of(fileno: int) -> str:
    with socket.socket(fileno=os.dup(fileno)) as sock:
        peer = sock.getpeername()
    return str(peer[0]) if isinstance(peer, tuple) else str(peer)


def _is_address(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except OSError:
        return False
    return True
