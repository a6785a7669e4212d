"""Telling a driver which of a name's addresses to dial, and noting where its connection leads.

TLS, password files and Kerberos still go by the name.
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

__all__ = ("DialledName", "name_in", "set_addresses", "set_addresses_async")

_OF_LIBPQ = frozenset({"psycopg", "psycopg2", "psycopg2cffi"})
_PORT = 5432
#: The key with which a place in the pool remembers that a connection was refused there.
_REFUSED = "hasql.dns.refused"
#: Arguments that decide where to connect, whatever the host.
_INSTEAD_OF_HOST = ("hostaddr", "sock", "unix_sock", "unix_socket")


class DialledName:
    """The name by which one connection was opened, and the addresses to which it may lead.

    There is only one address if the driver was told which to dial, or tells which it has dialled.
    """

    __slots__ = (
        *("__weakref__", "_followed", "_in_place", "_loop"),
        *("addresses", "driver", "host", "skips_check"),
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
        #: Whether the first checkout passes in any case, because the connection before was refused.
        self.skips_check = False
        self._followed = followed
        self._loop = loop
        self._in_place: dict[Any, Any] = {}

    def note_place(self, place: dict[Any, Any]) -> None:
        """Note the connection's place in the pool, and whether the one before it was refused."""
        self._in_place = place
        self.skips_check = place.pop(_REFUSED, False)

    def note_refused(self) -> None:
        """Let the next connection in this place pass its first checkout."""
        self._in_place[_REFUSED] = True

    def note_connected(self, connection: Any) -> None:
        """Note where the driver's connection leads, if that can be found out."""
        if self.driver in _OF_LIBPQ:
            peer: str | None = _peer_of(connection.fileno())
        elif self._loop is not None:
            peer, self._loop = self._loop.address, None
        else:
            return
        if peer is not None and (peer := plain_address(peer)) in self.addresses:
            self.addresses = (peer,)

    def abort(self) -> None:
        """Close what a failed connect may have left open; see `AddressedLoop.abort`."""
        if self._loop is not None:
            self._loop.abort()

    def has_left(self) -> bool:
        """Whether the name no longer leads to any address that this connection may lead to."""
        has_left = self._followed.has_left
        for address in self.addresses:  # noqa: SIM110 - `all` would take twice as long
            if not has_left(address):
                return False
        return True


def name_in(driver: str, arguments: MutableMapping[str, Any]) -> str | None:
    """Return the name that a driver would look up; None if there is not exactly one.

    That is so for an address, a socket or several hosts, and if another argument or the environment
    decides where to connect.
    """
    host = arguments.get("host")
    if not isinstance(host, str) or not host or host[0] in "/@" or "," in host:
        return None
    if any(arguments.get(each) is not None for each in _INSTEAD_OF_HOST):
        return None
    if driver in _OF_LIBPQ and os.environ.get("PGHOSTADDR"):
        return None
    return None if _is_address(host) else host


def set_addresses(
    driver: str, arguments: MutableMapping[str, Any], followed: FollowedName, dbapi: Any
) -> DialledName:
    """Put into the driver's arguments where to dial, so that it does not look the host up.

    Raises:
        NameResolutionError: Nothing is known of the name.
        dbapi.InterfaceError: The driver is pg8000, and no socket could be connected for it.
    """
    host, addresses = arguments["host"], followed.addresses()
    if driver == "pg8000":
        address = _open_socket(arguments, addresses, dbapi)
        return DialledName(driver, host, followed, [address])
    if driver in _OF_LIBPQ:
        _set_hostaddr(arguments, reachable_first(addresses, _port(arguments)))
    return DialledName(driver, host, followed, addresses)


async def set_addresses_async(
    driver: str, arguments: MutableMapping[str, Any], followed: FollowedName
) -> DialledName:
    """Do as `set_addresses` for an asyncio driver. Raises NameResolutionError."""
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
    """Give libpq all addresses, each with the same name; libpq tries them in turn."""
    arguments["host"] = ",".join([arguments["host"]] * len(addresses))
    arguments["hostaddr"] = ",".join(addresses)


def _open_socket(arguments: MutableMapping[str, Any], addresses: Sequence[str], dbapi: Any) -> str:
    """Give pg8000 a socket like the one it would open itself, and return the socket's address."""
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
        return _PORT  # the driver will raise its own error for the wrong port


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
