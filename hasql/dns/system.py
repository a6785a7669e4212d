"""The system's resolver, which is asked if DNS fails."""

import asyncio
import socket
import threading
from contextlib import suppress

__all__ = ("ask_system",)


async def ask_system(host: str, timeout: float) -> tuple[str, ...]:
    """Return all addresses that the system's resolver has for a name, IPv4 first.

    Raises OSError if the resolver fails, or takes longer than `timeout` seconds.
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
            found = OSError(f"it is not a name: {error}")
        with suppress(RuntimeError):  # the loop is closed, so the answer is no longer needed
            loop.call_soon_threadsafe(answer, found)

    # The call cannot be stopped, and may take longer than its caller waits. An executor would keep
    # the process from ending before the call does; a daemon thread does not.
    threading.Thread(target=ask, name="hasql-dns-system", daemon=True).start()
    try:
        async with asyncio.timeout(timeout):
            found = await answered
    except TimeoutError as error:
        msg = f"no answer within {timeout:g} s"
        raise OSError(msg) from error
    if isinstance(found, OSError):
        raise found
    return found


def _addresses(host: str) -> tuple[str, ...]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    found.sort(key=lambda each: each[0] != socket.AF_INET)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
