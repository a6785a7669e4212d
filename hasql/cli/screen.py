"""Screens: they show a running demo."""

import sys
import time
from dataclasses import dataclass
from typing import Protocol, TextIO

from hasql.cluster.probe import Role
from hasql.metrics import Metrics, NodeMetrics

__all__ = ("Frame", "PlainScreen", "Screen")


@dataclass(frozen=True, slots=True)
class Frame:
    """The state to show at one moment; `at` is in monotonic seconds, the counts are totals."""

    at: float
    metrics: Metrics
    #: Names of the nodes, in the order of `metrics.nodes`.
    names: tuple[str, ...]
    writes: int
    reads: int
    failed: int
    last_error: str | None


class Screen(Protocol):
    """What a demo needs from a screen. `tell` and `log` are called from any thread."""

    #: Seconds between two frames.
    period: float

    def tell(self, text: str) -> None:
        """Show a step of the demo."""

    def log(self, text: str) -> None:
        """Show a line that hasql has logged."""

    async def show(self, frame: Frame) -> None:
        """Show the current state."""

    def close(self) -> None:
        """Stop showing anything."""


class PlainScreen:
    """Lines of text, each with the seconds since the start."""

    period = 1.0

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._began = time.monotonic()
        self._last: Frame | None = None

    def tell(self, text: str) -> None:
        """Print a step."""
        self._print(text)

    def log(self, text: str) -> None:
        """Print a line that hasql has logged."""
        self._print(f"  hasql: {text}")

    async def show(self, frame: Frame) -> None:
        """Print the rates since the last frame, and the role or state of each host."""
        last, self._last = self._last, frame
        if last is None:
            return
        seconds = frame.at - last.at
        hosts = ", ".join(
            f"{name} {_standing(node)}"
            for name, node in zip(frame.names, frame.metrics.nodes, strict=True)
        )
        self._print(
            f"  {(frame.writes - last.writes) / seconds:.0f} writes/s, "
            f"{(frame.reads - last.reads) / seconds:.0f} reads/s, "
            f"{frame.failed} failed; {hosts}"
        )

    def close(self) -> None:
        """Do nothing: every line has been printed."""

    def _print(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.2f} s  {text}", file=self._stream, flush=True)


def _standing(node: NodeMetrics) -> str:
    if node.exclusion is not None:
        return node.exclusion.name.lower()
    return node.role.value if node.role is not Role.UNKNOWN else node.health.value
