"""Work in a task of its own: it goes on if the task that waits for it is cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("in_own_task", "note_failure")


async def in_own_task(work: Callable[[], Awaitable[None]]) -> None:
    """Do some work in a task of its own, and raise the error that it ends with.

    The new task calls `work`, so that no coroutine is left unawaited if the task is cancelled
    before it begins.

    If this is cancelled, nothing is told how the work ends. It ends because its connection is
    aborted, and asyncio must not log that as an error, not even when the program ends.
    """
    error = await asyncio.shield(asyncio.create_task(_error_of(work)))
    if error is not None:
        try:
            raise error
        finally:
            del error  # otherwise its traceback refers to this frame, and this frame to it


def note_failure(task: asyncio.Future[Any]) -> None:
    """Retrieve what a task has raised, because nothing else may; asyncio would log it as an error.

    It is a callback for when the task is done.
    """
    if not task.cancelled():
        task.exception()


async def _error_of(work: Callable[[], Awaitable[None]]) -> Exception | None:
    try:
        await work()
    except Exception as error:  # noqa: BLE001  # for the task that waits
        return error
    return None
