"""The system's resolver, for when DNS fails."""

import asyncio
import socket
import threading
from contextlib import suppress

__all__ = ("ask_system",)


async def ask_system(host: str, timeout: float) -> tuple[str, ...]:
    """Return all addresses that the system knows of a name, IPv4 first.

    Raises OSError, also when it takes longer than so many seconds.
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[tuple[str, ...] | OSError] = loop.create_future()

    def answer(found: tuple[str, ...] | OSError) -> None:
        if not answered.done():
            answered.set_result(found)

    def ask() -> None:
        try:
            found: tuple[str, ...] | OSError = _addresses(host)
        except OSError as error:
            found = error
        except UnicodeError as error:
            found = OSError(f"it is no name: {error}")
        with suppress(RuntimeError):  # nobody waits any more, and the loop is closed
            loop.call_soon_threadsafe(answer, found)

    # It cannot be stopped, and may take longer than anybody waits: no executor would let the
    # process end before it does.
    threading.Thread(target=ask, name="hasql-dns-system", daemon=True).start()
    try:
        async with asyncio.timeout(timeout):
            found = await answered
    except TimeoutError as error:
        msg = f"no answer in {timeout:g} s"
        raise OSError(msg) from error
    if isinstance(found, OSError):
        raise found
    return found


def _addresses(host: str) -> tuple[str, ...]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    found.sort(key=lambda each: each[0] != socket.AF_INET)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
