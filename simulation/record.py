"""The record of one run: what has happened, in order, and what must not have."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.virtual_time import VirtualClock

__all__ = ("Record",)


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

    def loop_failed(self, _: object, context: dict[str, Any]) -> None:
        """Take note of what the event loop has to report, an exception nobody has fetched, say."""
        self.violated("event loop", f"{context.get('message')}: {context.get('exception')!r}")
