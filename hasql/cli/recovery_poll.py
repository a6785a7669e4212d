"""Asks servers in recovery, from a process of its own, whether they still are.

In the application's process, the answers would wait for the very event loop whose delays are to be
measured. Times are those of the monotonic clock, which all processes of a machine share.

The program reads the DSNs from standard input (a JSON list on one line), answers ``ready``, and
starts asking when it reads the next line. When a server has become a master, it writes
``[index, last, first]``: ``last`` is when the last question was sent that was answered with "in
recovery", and ``first`` is when the first other answer arrived. It ends at the end of its input.
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
            return  # the server was killed or restarted, so it will not be the new master
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
