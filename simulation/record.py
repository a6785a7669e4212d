"""The record of one run: what has happened, in order, and what must not have."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.virtual_time import VirtualClock

__all__ = ("Complaints", "Record", "StoryFailed")

#: How many lines of its record a story that has failed shows.
_SHOWN = 40


class StoryFailed(AssertionError):  # noqa: N818  # what an assertion is
    """Something has happened in a story that must not; the message says how to play it again."""


class Record:
    """Everything that can be seen of a run from outside. Two runs of one seed have equal ones."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.lines: list[str] = []
        #: What must not have happened; a run ends with the first.
        self.violations: list[str] = []

    @property
    def digest(self) -> str:
        """Stands for all that has happened."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def note(self, who: object, what: str) -> None:
        self.lines.append(f"{self.clock.now:11.6f} {who}: {what}")

    def violated(self, who: object, what: str) -> None:
        """Take note of what must not happen; wherever it is found, the run is a failure."""
        self.note(who, f"VIOLATION: {what}")
        self.violations.append(f"at {self.clock.now:.6f} s, {who}: {what}")

    def told(self, seed: int, option: str = "") -> str:
        """Say what must not have happened, what came before it, and how to play it again."""
        shown, wrong = "\n".join(self.lines[-_SHOWN:]), "\n".join(self.violations)
        again = f"play it again: python -m simulation {option}--seed {seed}"
        return f"seed {seed}: {wrong}\n\n{shown}\n\n{again}"

    def loop_failed(self, _: object, context: dict[str, Any]) -> None:
        """Take note of what the event loop has to report, an exception nobody has fetched, say."""
        self.violated("event loop", f"{context.get('message')}: {context.get('exception')!r}")


class Complaints(logging.Handler):
    """Takes what hasql logs as an error for one: the core has met what it did not expect."""

    def __init__(self, record: Record) -> None:
        super().__init__(logging.ERROR)
        self._record = record

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._record.violated("the log", f"{record.getMessage()}: {error!r}")
