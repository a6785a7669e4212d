"""What a server sends on a connection of psycopg's, where psycopg itself does not wait for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg import OperationalError
from psycopg.pq import ExecStatus
from psycopg.waiting import Wait

if TYPE_CHECKING:
    from collections.abc import Callable
    from weakref import ref

    from psycopg.abc import PQGen
    from psycopg.errors import Diagnostic
    from psycopg.pq.abc import PGconn

__all__ = ("heed_last_words", "remaining_results", "wait_for")

_T = TypeVar("_T")

_READ, _WRITE = Wait.R, Wait.W
_COPYING = frozenset({ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH})


async def wait_for(gen: PQGen[_T], socket: int, break_off: Callable[[], None]) -> _T:
    """Wait for what goes on at a socket; cancelled, break it off, as the server may be silent.

    psycopg would wait for its own cancellation, and use time limits, which belong to a task: with
    this, one task may go on where another has begun.
    """
    loop = asyncio.get_running_loop()
    try:
        wanted = next(gen)
        while True:
            turn: asyncio.Future[Any] = loop.create_future()
            if wanted & _READ:
                loop.add_reader(socket, _set, turn, _READ)
            if wanted & _WRITE:
                loop.add_writer(socket, _set, turn, _WRITE)
            try:
                ready = await turn
            except BaseException:
                break_off()
                raise
            finally:
                if wanted & _READ:
                    loop.remove_reader(socket)
                if wanted & _WRITE:
                    loop.remove_writer(socket)
            wanted = gen.send(ready)
    except StopIteration as done:
        result: _T = done.value
        return result


def _set(turn: asyncio.Future[Any], ready: Wait) -> None:
    if not turn.done():
        turn.set_result(ready)


def remaining_results(server: PGconn) -> PQGen[None]:
    """Read what a statement still sends that nobody waits for, but for the data of a COPY.

    Raises OperationalError where there are several statements, in a pipeline.
    """
    if server.pipeline_status:
        raise OperationalError("cancelled in a pipeline")
    while True:
        while server.is_busy():
            yield _READ
            server.consume_input()
        result = server.get_result()
        if result is None or result.status in _COPYING:
            return


def heed_last_words(heard_by: ref[Any], notice: Diagnostic) -> None:
    """Take note that a server says its last words on a connection."""
    connection = heard_by()
    if connection is not None and notice.severity_nonlocalized in {"FATAL", "PANIC"}:
        connection.lost = True  # its socket closes some milliseconds later
