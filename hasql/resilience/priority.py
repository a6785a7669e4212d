"""Priorities: what an acquire counts as where not all can be let in."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum

__all__ = ("Priority", "current_priority", "priority")


class Priority(IntEnum):
    """What an acquire counts as; a lower number goes first."""

    #: Has a share of the places kept for it.
    CRITICAL = 0
    NORMAL = 1
    BACKGROUND = 2


current_priority: ContextVar[Priority] = ContextVar("priority", default=Priority.NORMAL)
"""What the acquires of this task or thread count as."""


@contextmanager
def priority(level: Priority) -> Iterator[None]:
    """Have all acquires inside count as this.

    Raises:
        TypeError: It is no `Priority`.
    """
    if not isinstance(level, Priority):
        msg = f"priority takes a Priority, such as Priority.CRITICAL, not {level!r}"
        raise TypeError(msg)
    token = current_priority.set(level)
    try:
        yield
    finally:
        current_priority.reset(token)
