"""The holder of a connection: the task that it was lent to."""

import asyncio
from typing import Any
from weakref import ReferenceType, ref

__all__ = ("Held", "NeverHeldBefore")


class Held:
    """A connection that its pool lends again as the same object: who has it, and who had it before.

    So that a task which gives back what it has given back before does not take it from the one
    that it was lent to meanwhile. Tasks are referred to weakly: a connection outlives them. Of who
    has it for a block nothing is noted until it was lent to one that gives back by `release`: the
    end of a block cannot mistake the lease.
    """

    #: The last task that had it until `release`.
    held_before: ReferenceType[asyncio.Task[Any]] | None = None
    _held_by: ReferenceType[asyncio.Task[Any]] | None = None

    def hold(self) -> None:
        """Take note that the task which runs has it now."""
        task = asyncio.current_task()
        self._held_by = None if task is None else ref(task)

    def is_anothers(self) -> bool:
        """Tell whether the task which runs had it before and another does now.

        One that has ended holds nothing: it has acquired for another, as asyncio.wait_for() does.
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


class NeverHeldBefore:
    """Of a pool that makes a new object for each lease, so that there is nothing to tell apart."""

    def hold(self, _: object) -> None:
        """Take no note."""

    def is_anothers(self, _: object) -> bool:
        """Tell that it is not."""
        return False

    def note_release(self, _: object) -> None:
        """Take no note."""
