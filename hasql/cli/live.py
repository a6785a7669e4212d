"""The live screen: a terminal that is redrawn ten times a second."""

import asyncio
import threading
import time
from collections import deque
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hasql.cli.screen import Frame
from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion, Health
from hasql.metrics import NodeMetrics

__all__ = ("LiveScreen",)

_BLOCKS = "▁▂▃▄▅▆▇█"
_BUCKET = 0.25
"""Seconds of one column of a sparkline."""
_COLUMNS = 48
_STEPS = 9
_LOG_LINES = 5

_ROLE_STYLES = {Role.MASTER: "bold green", Role.REPLICA: "cyan", Role.UNKNOWN: "dim"}
_HEALTH_STYLES = {
    Health.UP: "green",
    Health.DOWN: "bold red",
    Health.SUSPECT: "yellow",
    Health.STARTING: "yellow",
}


class _Line(NamedTuple):
    at: float
    text: str


class _Rate:
    """Operations per second, in columns of a quarter of a second."""

    def __init__(self) -> None:
        self._begun: tuple[float, int] | None = None
        self.columns: deque[float] = deque(maxlen=_COLUMNS)

    def note(self, at: float, total: int) -> None:
        if self._begun is None:
            self._begun = at, total
        began, before = self._begun
        if at - began >= _BUCKET:
            self.columns.append((total - before) / (at - began))
            self._begun = at, total

    @property
    def now(self) -> float:
        return self.columns[-1] if self.columns else 0.0

    def sparkline(self) -> str:
        most = max(self.columns, default=0.0)
        return "".join(
            _BLOCKS[round(value / most * (len(_BLOCKS) - 1))] if value else " "
            for value in self.columns
        ).rjust(_COLUMNS)


class LiveScreen:
    """Draws in a thread: a slow terminal must not hold up the application that is measured."""

    period = 0.1

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._began = time.monotonic()
        self._steps: deque[_Line] = deque(maxlen=_STEPS)
        self._log: deque[_Line] = deque(maxlen=_LOG_LINES)
        self._writes, self._reads = _Rate(), _Rate()
        self._frame: Frame | None = None
        self._lock = threading.Lock()
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)
        self._live.start()
        self._draw()

    def tell(self, text: str) -> None:
        """Show a step; drawn at once while there are no frames."""
        self._steps.append(_Line(time.monotonic() - self._began, text))
        if self._frame is None:
            self._draw()

    def log(self, text: str) -> None:
        """Show a line at the next frame."""
        self._log.append(_Line(time.monotonic() - self._began, text))

    async def show(self, frame: Frame) -> None:
        """Draw a frame."""
        self._writes.note(frame.at, frame.writes)
        self._reads.note(frame.at, frame.reads)
        self._frame = frame
        await asyncio.to_thread(self._draw)

    def close(self) -> None:
        """Leave the last frame on the terminal."""
        self._draw()
        self._live.stop()

    def _draw(self) -> None:
        with self._lock:
            self._live.update(self.render(), refresh=True)

    def render(self) -> RenderableType:
        """Compose what is seen now."""
        parts: list[RenderableType] = []
        if self._frame is not None:
            parts += [_hosts(self._frame), self._load(self._frame)]
        parts.append(self._lines("scenario", self._steps, current=True))
        if self._log:
            parts.append(self._lines("hasql's log", self._log))
        elapsed = time.monotonic() - self._began
        return Panel(
            Group(*parts),
            title=Text(self._title, "bold"),
            title_align="left",
            subtitle=Text(f"{elapsed:.1f} s · Ctrl-C ends it", "dim"),
            subtitle_align="right",
            border_style="blue",
        )

    def _load(self, frame: Frame) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        rates = (("writes", self._writes, "green"), ("reads", self._reads, "cyan"))
        for name, rate, style in rates:
            table.add_row(
                Text(f" {name}", "bold"),
                Text(f"{rate.now:6.0f}/s", style),
                Text(rate.sparkline(), style),
            )
        failed = Text(f"{frame.failed:6d}  ", "red" if frame.failed else "dim")
        words = Text(frame.last_error or "", "red", no_wrap=True, overflow="ellipsis")
        table.add_row(Text(" errors", "bold"), failed, words)
        return Panel(table, title="load", title_align="left", border_style="dim")

    def _lines(self, title: str, lines: deque[_Line], *, current: bool = False) -> RenderableType:
        shown = list(lines)
        text = Text(no_wrap=True, overflow="ellipsis")
        for number, line in enumerate(shown, 1):
            style = "bold yellow" if current and number == len(shown) else ""
            text.append(f" {line.at:5.1f} s  ", "dim")
            text.append(line.text + ("\n" if number < len(shown) else ""), style)
        return Panel(text, title=title, title_align="left", border_style="dim")


def _hosts(frame: Frame) -> RenderableType:
    table = Table(expand=True, border_style="dim", header_style="bold")
    for heading in ("host", "role", "health"):
        table.add_column(heading, no_wrap=True)
    for heading in ("since", "timeline", "in use/pool", "response", "lag"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, node in zip(frame.names, frame.metrics.nodes, strict=True):
        table.add_row(*_host(name, node))
    return Panel(table, title="what hasql knows", title_align="left", border_style="dim")


def _host(name: str, node: NodeMetrics) -> list[Text]:
    role = Text(node.role.value, _ROLE_STYLES[node.role])
    if node.exclusion is not None:
        # A fenced host need not answer any more; what counts is that it does not serve.
        role = Text(node.exclusion.name.lower(), "bold red")
    milliseconds = "" if node.response_time is None else f"{node.response_time * 1000:.1f} ms"
    master = node.role is Role.MASTER or node.exclusion is Exclusion.FENCED
    open_now = node.pool_idle + node.pool_used
    return [
        Text.assemble((name, "bold"), f" {node.host}"),
        role,
        Text(node.health.value, _HEALTH_STYLES[node.health]),
        Text(f"{node.unchanged_for:.1f} s"),
        Text(str(node.timeline) if master and node.timeline is not None else ""),
        Text(f"{node.in_flight}/{open_now}"),
        Text(milliseconds),
        Text("" if node.lag_bytes is None else _size(node.lag_bytes), "dim"),
    ]


def _size(count: int) -> str:
    return f"{count} B" if count < 1024 else f"{count / 1024:.0f} kB"  # noqa: PLR2004 - one kB
