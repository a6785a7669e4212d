"""Finding the address of a name that answers first: they are dialled in turn, staggered."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from contextlib import suppress
from math import inf
from selectors import EVENT_WRITE, DefaultSelector
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("DialledSocket", "dial", "reachable_first", "reachable_first_async")

#: Seconds after which the next address is dialled beside those that have not answered yet (RFC
#: 8305, section 5, allows 0.1 to 2). After an address that refuses, the next is dialled at once.
_STAGGER = 0.1
#: Seconds to wait for the first answer. After that the driver tries all addresses with its own
#: time limits.
_LOOKS_FOR = 2.0


class DialledSocket(socket.socket):
    """A connected socket for a driver, which closes itself when it is collected.

    So a `do_connect` listener that fails may drop it unused, without knowing of it.
    """

    def __del__(self) -> None:
        self.close()


class _Dials:
    """Connects to several addresses that run at the same time until one of them succeeds."""

    def __init__(self, port: int, source: tuple[str, int] | None) -> None:
        self._port = port
        self._source = source
        self._selector = DefaultSelector()
        #: The error of the last connect that has failed.
        self.error = OSError("no address to dial")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for key in tuple(self._selector.get_map().values()):
            key.data[0].close()
        self._selector.close()

    @property
    def running(self) -> bool:
        """Whether an address has not answered yet."""
        return bool(self._selector.get_map())

    def begin(self, address: str) -> None:
        """Begin to connect to one more address."""
        try:
            found = socket.getaddrinfo(
                address, self._port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )
            family, kind, protocol, _, place = found[0]
            sock = DialledSocket(family, kind, protocol)
            sock.settimeout(0)
            if self._source is not None:
                sock.bind(self._source)
            with suppress(BlockingIOError):
                sock.connect(place)
        except OSError as error:  # for example, this machine does not have the address family
            self.error = error
        else:
            self._selector.register(sock, EVENT_WRITE, (sock, address))

    def wait(self, seconds: float) -> tuple[DialledSocket, str] | None:
        """Wait until one connect succeeds, and return its socket and address; None: one has failed.

        Raises TimeoutError if neither happens within `seconds`.
        """
        ready = self._selector.select(seconds)
        for key, _ in ready:
            sock, address = key.data
            self._selector.unregister(sock)
            if not (code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                return sock, address
            sock.close()
            self.error = OSError(code, os.strerror(code))
        if not ready:
            raise TimeoutError
        return None


def dial(
    addresses: Sequence[str],
    port: int,
    *,
    seconds: float | None,
    source: tuple[str, int] | None = None,
) -> tuple[DialledSocket, str]:
    """Return a socket that is connected to one of the addresses, and that address.

    Args:
        addresses: The addresses in order of preference.
        port: The port of all addresses.
        seconds: The time limit for all of it, plus up to a tenth of a second for each address that
            refuses. None: the limit is the operating system's.
        source: The local address and port to bind the socket to; None: the system's choice.

    Raises:
        OSError: No address could be reached.
    """
    waiting = deque(addresses)
    left = inf if seconds is None else seconds
    with _Dials(port, source) as dials:
        while waiting or dials.running:
            if waiting:
                dials.begin(waiting.popleft())
            step = min(_STAGGER, left)
            try:
                if dials.running and (found := dials.wait(step)) is not None:
                    return found
            except TimeoutError:
                left -= step
                if left <= 0:
                    raise TimeoutError(f"no answer within {seconds:g} s") from None
        raise dials.error


def reachable_first(addresses: Sequence[str], port: int) -> tuple[str, ...]:
    """Move the address that answers first to the front, for a driver that dials by itself.

    A single address is not dialled. If none answers within two seconds, the order stays.
    """
    if len(addresses) > 1:
        with suppress(OSError):
            sock, found = dial(addresses, port, seconds=_LOOKS_FOR)
            sock.close()
            return _before_others(found, addresses)
    return tuple(addresses)


async def reachable_first_async(addresses: Sequence[str], port: int) -> tuple[str, ...]:
    """Do as `reachable_first` without blocking the event loop."""
    if len(addresses) == 1:
        return tuple(addresses)
    waiting = deque(addresses)
    running: set[asyncio.Task[str]] = set()
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOKS_FOR):
                while waiting or running:
                    if waiting:
                        running.add(asyncio.create_task(_answers(waiting.popleft(), port)))
                    stagger = _STAGGER if waiting else None
                    done, _ = await asyncio.wait(
                        running, timeout=stagger, return_when=asyncio.FIRST_COMPLETED
                    )
                    running -= done
                    for each in done:
                        if each.exception() is None:
                            return _before_others(each.result(), addresses)
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return tuple(addresses)


async def _answers(address: str, port: int) -> str:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, address, port)
    transport.abort()
    return address


def _before_others(first: str, addresses: Sequence[str]) -> tuple[str, ...]:
    return first, *(each for each in addresses if each != first)
