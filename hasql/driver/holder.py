"""Which task holds a connection, for pools that lease the same object again and again.

By mistake a task may give a connection back twice. By then the pool may have leased the same object
to another task. The second release must not take it away from that task, and whatever else the
former task does with it, above all a commit, must not be done in the middle of the other task's
work. For threads nothing is noted: any thread may give back what another has taken, and threads are
reused.
"""

import asyncio
from operator import methodcaller
from typing import Any
from weakref import ReferenceType, ref

__all__ = ("HolderNotes", "ReusesObjects")


class HolderNotes:
    """Mixed into the connections of such a pool: which task holds one, and which held it before.

    The notes refer to tasks weakly, because a connection outlives them. A task that holds a
    connection for an ``async with`` block is noted only once the connection was leased to a task
    that gave it back by `release`: the end of a block cannot mistake its lease for another.
    """

    #: The last task that held it until `release`.
    held_before: ReferenceType[asyncio.Task[Any]] | None = None
    _held_by: ReferenceType[asyncio.Task[Any]] | None = None

    def hold(self) -> None:
        """Take note that the current task holds it now."""
        task = asyncio.current_task()
        self._held_by = None if task is None else ref(task)

    def is_held_by_another(self) -> bool:
        """Tell whether the current task held it before and another task holds it now.

        A task that has ended holds nothing: it acquired the connection on behalf of another, as
        asyncio.wait_for() does.
        """
        former, holder = self.held_before, self._held_by
        if former is None or holder is None:
            return False
        task, present = former(), holder()
        if task is None or present is None or present is task or present.done():
            return False
        return task is asyncio.current_task()

    def note_release(self) -> None:
        """Take note that it is given back by `release`."""
        self.held_before, self._held_by = self._held_by, None


class ReusesObjects:
    """Mixed into the adapter of such a pool, before `AsyncPool`."""

    # These call the methods of `HolderNotes` on the connection, in C: a Python method costs more.
    hold: Any = methodcaller("hold")
    is_held_by_another: Any = methodcaller("is_held_by_another")
    note_release: Any = methodcaller("note_release")
