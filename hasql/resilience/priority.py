"""Priorities: which acquires go first when not all can be let in."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum

__all__ = ("Priority", "current_priority", "priority")


class Priority(IntEnum):
    """The priority of an acquire; a lower number goes first."""

    #: A share of the places is kept for this priority.
    CRITICAL = 0
    NORMAL = 1
    BACKGROUND = 2


current_priority: ContextVar[Priority] = ContextVar("priority", default=Priority.NORMAL)
"""The priority of the acquires of this task or thread."""


@contextmanager
def priority(level: Priority) -> Iterator[None]:
    """Give all acquires inside the block this priority.

    Raises:
        TypeError: `level` is not a `Priority`.
    """
    if not isinstance(level, Priority):
        msg = f"priority takes a Priority, such as Priority.CRITICAL, not {level!r}"
        raise TypeError(msg)
    token = current_priority.set(level)
    try:
        yield
    finally:
        current_priority.reset(token)
