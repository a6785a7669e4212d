"""Statements that aiopg leaves running at the server when their tasks are cancelled.

It closes the connection then, which a server does not notice before it has an answer to send, and
psycopg2 can only ask it to stop in a way that blocks the event loop. So another connection is
opened for that. It finds the session by both its process and its port: behind a pooler these are
another's, and nothing is done.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hasql._adapters.aiopg.session import AiopgSession

    #: Opens a connection beside those of the pool.
    Beside: TypeAlias = Callable[[], Awaitable[AiopgSession]]

__all__ = ("end_session",)

_SESSION = "FROM pg_catalog.pg_stat_activity WHERE pid = {} AND client_port = {}"
_CANCEL = f"SELECT pg_catalog.pg_cancel_backend(pid) {_SESSION}"
_LOOK = f"SELECT pid {_SESSION}"
#: Seconds between two looks.
_A_MOMENT = 0.01


async def end_session(connect: Beside, pid: int, port: int) -> None:
    """Have the server cancel what a session does, and wait until it has gone."""
    session = await connect()
    try:
        there = await session.fetch_row(_CANCEL.format(pid, port))
        while there:
            await asyncio.sleep(_A_MOMENT)
            there = await session.fetch_row(_LOOK.format(pid, port))
    finally:
        session.kill()
