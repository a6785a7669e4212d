"""A psycopg 3 connection that can be aborted at once, and found dead without a round trip."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Self
from weakref import ref

from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo, TransactionStatus

from hasql._adapters.fork_guard import cut_off_in_children
from hasql._adapters.libpq import parameters_of_pool
from hasql._adapters.psycopg.cancellable import CancellableConnection
from hasql._adapters.psycopg.liveness import LivenessMixin, note_notice

__all__ = ("PsycopgConnection", "is_of_libpq")

_IN_TRANSACTION = frozenset({TransactionStatus.INTRANS, TransactionStatus.INERROR})

#: Tells whether this libpq knows a parameter.
is_of_libpq = frozenset(option.keyword.decode() for option in Conninfo.get_defaults()).__contains__


class PsycopgConnection(LivenessMixin, CancellableConnection):
    """A connection that can be aborted at once, and found dead without asking the server."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lost = self.closed
        if not self.lost:
            cut_off_in_children(self, AsyncConnection.fileno)
        # The handler has a weak reference, so that it does not keep the connection alive.
        self.add_notice_handler(partial(note_notice, ref(self)))

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect as psycopg does, with hasql's parameters."""
        given: dict[str, Any] = conninfo_to_dict(conninfo)
        conninfo = make_conninfo(**parameters_of_pool(given, is_of_libpq))
        return await super().connect(conninfo, **kwargs)

    async def close(self) -> None:
        """Close it as psycopg does, and wake the task that waits for its socket, if there is one.

        psycopg itself would only close the socket, and that task would wait for ever.
        """
        self.lost = True
        if self.pending_cancel is not None:
            return  # that task closes it, once the statement has ended
        if self.lock.locked():
            self.abort()
            for _ in range(3):
                if self.lock.locked():
                    await asyncio.sleep(0)  # lets the task that waits for the socket wake first
        await super().close()

    async def roll_back_or_close(self) -> None:
        """Roll an open transaction back; if that is not possible, close the connection."""
        await self.wait_for_cancel()
        if not self.lost and self.pgconn.transaction_status in _IN_TRANSACTION:
            await self.rollback()
            return
        self.abort()
        await self.close()
