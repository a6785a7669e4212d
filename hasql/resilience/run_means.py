"""What a manager has for its runs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from random import Random
from typing import Protocol

from hasql.resilience.commit_outcome import CommitMark, Outcome
from hasql.resilience.error_rules import ErrorRules

__all__ = ("FindsOutcome", "RunMeans")


class FindsOutcome(Protocol):
    """Finds out what has become of commits, in the manager's event loop."""

    def saw(self, mark: CommitMark) -> None:
        """Take note of a mark that was read; called by whoever has read it, in any thread."""

    def expect(self, unit: object) -> None:
        """Take note that a unit of work is about to ask; called in any thread, as is `told`."""

    def told(self, unit: object) -> None:
        """Take note that it has asked, or does not any more."""

    async def find(self, mark: CommitMark | None, deadline: float) -> Outcome:
        """Find out by a deadline, by the clock."""
        ...


@dataclass(frozen=True, slots=True)
class RunMeans:
    """What a manager has for its runs. Durations are seconds."""

    rules: ErrorRules
    finder: FindsOutcome
    release_timeout: float
    clock: Callable[[], float]
    chance: Random
    #: Takes passwords out of a text.
    hide: Callable[[str], str]
    #: Held while something is counted.
    guard: AbstractContextManager[object]
