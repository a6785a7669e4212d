"""Waiting for the answers of a server by hasql's own means, not by psycopg's."""

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
    """Wait for what goes on at a socket; when this is cancelled, call `on_cancel`.

    psycopg would wait for its own cancel request. It would also use time limits, which belong to
    one task, while a release that one task has begun may be finished by another.
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
    """Read what a statement still sends that nobody waits for, except the data of a COPY.

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
