"""Asks servers in recovery whether they still are, from a process of its own.

In the application's process the answer would wait for the event loop whose delays it is there to
measure. Times are of the monotonic clock, which all processes of a machine share.

Reads the DSNs from standard input (one JSON list on a line), answers ``ready``, and begins to ask
at the next line. Writes ``[index, last, first]`` when a server has become a master: when it was
asked for the last time with the answer "in recovery", and when the first other answer had come.
Ends at the end of its input.
"""

import asyncio
import json
import sys
import time

import asyncpg

__all__ = ("run",)

_PERIOD = 0.002
"""Seconds between two questions."""

_CONNECT_TIMEOUT = 10.0


def _say(message: object) -> None:
    print(json.dumps(message), flush=True)


async def _poll(index: int, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    last = time.monotonic()
    while True:
        asked = time.monotonic()
        try:
            in_recovery = await connection.fetchval("SELECT pg_is_in_recovery()")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return  # killed or restarted: it will not be the new master
        if not in_recovery:
            _say([index, last, time.monotonic()])
            return
        last = asked
        await asyncio.sleep(_PERIOD)


async def run() -> None:
    """Serve one demo."""
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    dsns = json.loads(await orders.readline())
    connections = [await asyncpg.connect(dsn, timeout=_CONNECT_TIMEOUT) for dsn in dsns]
    _say("ready")
    if await orders.readline():
        polls = [asyncio.create_task(_poll(*each)) for each in enumerate(connections)]
        await orders.read()
        for poll in polls:
            poll.cancel()
    for connection in connections:
        connection.terminate()


if __name__ == "__main__":
    asyncio.run(run())
