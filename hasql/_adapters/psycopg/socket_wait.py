"""Waiting for a server's answers by hasql's own code instead of psycopg's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg import OperationalError
from psycopg.pq import ExecStatus
from psycopg.waiting import Wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn

__all__ = ("remaining_results", "wait_for")

_T = TypeVar("_T")

_READ, _WRITE = Wait.R, Wait.W
_COPYING = frozenset({ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH})


async def wait_for(gen: PQGen[_T], socket: int, on_cancel: Callable[[], None]) -> _T:
    """Run psycopg's generator, waiting for the socket; when cancelled, call `on_cancel`.

    psycopg's own code would, when cancelled, wait for its cancel request. It would also use time
    limits, which belong to one task, whereas a release that one task has begun may be finished by
    another.
    """
    loop = asyncio.get_running_loop()
    try:
        wanted = next(gen)
        while True:
            answer: asyncio.Future[Any] = loop.create_future()
            if wanted & _READ:
                loop.add_reader(socket, _set, answer, _READ)
            if wanted & _WRITE:
                loop.add_writer(socket, _set, answer, _WRITE)
            try:
                ready = await answer
            except BaseException:
                on_cancel()
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


def _set(answer: asyncio.Future[Any], ready: Wait) -> None:
    if not answer.done():
        answer.set_result(ready)


def remaining_results(server: PGconn) -> PQGen[None]:
    """Read and discard what a statement still sends, except the data of a COPY.

    Raises OperationalError in pipeline mode, where several statements may be under way.
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
