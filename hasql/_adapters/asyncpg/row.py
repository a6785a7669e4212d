"""One row as the server writes it, without the codecs that an application has set."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hasql._adapters.asyncpg.connection import RawConnection

__all__ = ("fetch_row",)


async def fetch_row(connection: RawConnection, sql: str) -> Sequence[str | None]:
    """Run a query and return its one row as the server writes it; empty: there is none.

    This uses COPY, because asyncpg has no other way around its codecs. COPY also needs no prepared
    statement, which a pooler might look for in another session.
    """
    data = bytearray()

    async def take(chunk: bytes) -> None:
        data.extend(chunk)

    try:
        await asyncpg.Connection.copy_from_query(connection, sql, output=take)
    except asyncpg.InternalClientError:
        _retrieve_left(connection)
        raise
    if not data:
        return ()
    row = data.decode("utf-8", "backslashreplace").split("\n")[0]
    return [None if value == "\\N" else value for value in row.split("\t")]


def _retrieve_left(connection: RawConnection) -> None:
    """Retrieve the error of a future that asyncpg leaves behind, so that asyncio does not log it.

    asyncpg leaves one behind if a COPY is begun after the server has said why it ends the
    connection. That future fails when the socket closes, and no code awaits it.
    """
    for protocol in gc.get_referents(connection):
        if isinstance(protocol, asyncio.Protocol):
            for each in filter(asyncio.isfuture, gc.get_referents(protocol)):
                each.add_done_callback(lambda done: done.cancelled() or done.exception())
