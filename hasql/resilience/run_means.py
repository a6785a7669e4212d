"""What a manager provides for its runs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from random import Random
from typing import Protocol

from hasql.resilience.commit_outcome import CommitMark, Outcome
from hasql.resilience.error_rules import ErrorRules

__all__ = ("OutcomeFinder", "RunMeans")


class OutcomeFinder(Protocol):
    """Finds out what has become of commits, in the manager's event loop."""

    def note_mark(self, mark: CommitMark) -> None:
        """Note a mark that was read. The thread that has read it calls this."""

    def expect_question(self, unit: object) -> None:
        """Note that a unit of work is about to ask. Any thread may call this and `end_question`."""

    def end_question(self, unit: object) -> None:
        """Note that a unit of work has asked, or will not ask any more."""

    async def find(self, mark: CommitMark | None, deadline: float) -> Outcome:
        """Find the outcome of a commit by the deadline, by the clock."""
        ...


@dataclass(frozen=True, slots=True)
class RunMeans:
    """What a manager provides for its runs. Durations are seconds."""

    rules: ErrorRules
    finder: OutcomeFinder
    release_timeout: float
    clock: Callable[[], float]
    chance: Random
    #: Masks passwords in a text.
    hide: Callable[[str], str]
    #: Held while counts change.
    guard: AbstractContextManager[object]
