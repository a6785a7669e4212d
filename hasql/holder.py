"""The holder of a connection: the task that it was lent to."""

import asyncio
from typing import Any
from weakref import ReferenceType, ref

__all__ = ("Held", "NeverHeldBefore")


class Held:
    """A connection that its pool lends again as the same object: who holds it, and who did before.

    So that a task which gives back what it has given back before does not take it from the one
    that it was lent to meanwhile. Tasks are referred to weakly: a connection outlives them.
    """

    _held_in: asyncio.AbstractEventLoop | None = None
    _held_by: ReferenceType[asyncio.Task[Any]] | None = None
    _held_before: ReferenceType[asyncio.Task[Any]] | None = None

    def hold(self) -> None:
        """Take note that the task which runs holds it from now on."""
        loop = self._held_in
        if loop is None:  # it is kept, as asking is a system call up to Python 3.11
            loop = self._held_in = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        self._held_before, self._held_by = self._held_by, None if task is None else ref(task)

    def is_anothers(self) -> bool:
        """Tell whether the task which runs held it before and another does now.

        One that has ended holds nothing: it has acquired for another, as asyncio.wait_for() does.
        """
        former, holder = self._held_before, self._held_by
        if former is holder or former is None or holder is None:
            return False
        task, present = former(), holder()
        if task is None or present is None or present.done():
            return False
        return task is asyncio.current_task(self._held_in)


class NeverHeldBefore:
    """Of a pool that makes a new object for each lease, so that there is nothing to tell apart."""

    def hold(self, _: object) -> None:
        """Take no note."""

    def is_anothers(self, _: object) -> bool:
        """Tell that it is not."""
        return False
