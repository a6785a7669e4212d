"""The record of a run: the events in order, and the violations."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.virtual_time import VirtualClock

__all__ = ("Complaints", "Record", "StoryFailed")

#: How many lines of its record a failed story shows.
_SHOWN = 40


class StoryFailed(AssertionError):  # noqa: N818  # it is an assertion
    """Something was wrong in a story; the message says what, and how to play it again."""


class Record:
    """Everything that can be seen of a run from outside; two runs of a seed have equal records."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.lines: list[str] = []
        #: The violations of what must hold; a run ends with the first.
        self.violations: list[str] = []

    @property
    def digest(self) -> str:
        """A hash of everything that has happened."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def note(self, who: object, what: str) -> None:
        self.lines.append(f"{self.clock.now:11.6f} {who}: {what}")

    def violated(self, who: object, what: str) -> None:
        """Record a violation, which makes the run a failure."""
        self.note(who, f"VIOLATION: {what}")
        self.violations.append(f"at {self.clock.now:.6f} s, {who}: {what}")

    def told(self, seed: int, option: str = "") -> str:
        """Describe the violations, what came before them, and how to play the story again."""
        shown, wrong = "\n".join(self.lines[-_SHOWN:]), "\n".join(self.violations)
        again = f"play it again: python -m simulation {option}--seed {seed}"
        return f"seed {seed}: {wrong}\n\n{shown}\n\n{again}"

    def loop_failed(self, _: object, context: dict[str, Any]) -> None:
        """Record an error of the event loop, for example an exception that was never retrieved."""
        self.violated("event loop", f"{context.get('message')}: {context.get('exception')!r}")


class Complaints(logging.Handler):
    """Records errors in hasql's log as violations: the core has met something unexpected."""

    def __init__(self, record: Record) -> None:
        super().__init__(logging.ERROR)
        self._record = record

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._record.violated("the log", f"{record.getMessage()}: {error!r}")
