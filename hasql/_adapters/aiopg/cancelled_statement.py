"""Ends statements that aiopg leaves running on the server when their tasks are cancelled.

When a task is cancelled, aiopg closes the connection. The server does not notice that before it has
an answer to send. psycopg2 could ask the server to cancel the statement, but by a call that blocks
the event loop. So hasql opens another connection for that. It identifies the session by process id
and client port together: behind a pooler these are not the session's own, and then nothing is
cancelled.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hasql._adapters.aiopg.session import AiopgSession

    #: Opens a connection outside the pool.
    OpenSession: TypeAlias = Callable[[], Awaitable[AiopgSession]]

__all__ = ("end_statement",)

_SESSION = "FROM pg_catalog.pg_stat_activity WHERE pid = {} AND client_port = {}"
_CANCEL = f"SELECT pg_catalog.pg_cancel_backend(pid) {_SESSION}"
_LOOK = f"SELECT pid {_SESSION}"
#: Seconds between two looks.
_INTERVAL = 0.01


async def end_statement(open_session: OpenSession, pid: int, port: int) -> None:
    """Ask the server to cancel what a session runs, and wait until the session has ended."""
    session = await open_session()
    try:
        there = await session.fetch_row(_CANCEL.format(pid, port))
        while there:
            await asyncio.sleep(_INTERVAL)
            there = await session.fetch_row(_LOOK.format(pid, port))
    finally:
        session.kill()
