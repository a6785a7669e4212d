"""The live screen: redraws a terminal ten times a second."""

import asyncio
import threading
import time
from collections import deque
from typing import NamedTuple

from rich import box
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
"""The seconds that one column of a sparkline stands for."""
_COLUMNS = 48
_STEPS = 14
_LOG_LINES = 4
_ROOMY = 30
"""Lines from which on a terminal has room for more of the log."""
_NARROW = 90
"""Columns up to which a terminal is too narrow for padding."""
_FRAME, _HOST_LINES = 3, 10
"""The lines of the frame, and those of hosts and load."""

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
        ).ljust(_COLUMNS)


class LiveScreen:
    """Draws in a thread, so that a slow terminal does not delay the application being measured."""

    period = 0.1

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._began = time.monotonic()
        self._steps: deque[_Line] = deque(maxlen=_STEPS)
        self._log: deque[_Line] = deque(maxlen=_LOG_LINES)
        self._writes, self._reads = _Rate(), _Rate()
        self._frame: Frame | None = None
        self._ending = "Ctrl-C ends it"
        self._lock = threading.Lock()
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)
        self._live.start()
        self._draw()

    def tell(self, text: str) -> None:
        """Show a step: with the next frame, or at once if there has been no frame yet."""
        self._steps.append(_Line(time.monotonic() - self._began, text))
        if self._frame is None:
            self._draw()

    def log(self, text: str) -> None:
        """Show a log line with the next frame."""
        self._log.append(_Line(time.monotonic() - self._began, text))

    async def show(self, frame: Frame) -> None:
        """Draw a frame."""
        self._writes.note(frame.at, frame.writes)
        self._reads.note(frame.at, frame.reads)
        self._frame = frame
        await asyncio.to_thread(self._draw)

    def close(self) -> None:
        """Leave the last frame on the terminal."""
        self._ending = "ended"
        self._draw()
        self._live.stop()

    def _draw(self) -> None:
        with self._lock:
            self._live.update(self.render(), refresh=True)

    def render(self) -> RenderableType:
        """Compose the current content of the screen."""
        parts: list[RenderableType] = []
        if self._frame is not None:
            parts += [
                _hosts(self._frame, 1 if self._console.width > _NARROW else 0),
                Text(),
                self._load(self._frame),
                Text(),
            ]
        # The steps get the rest of the terminal's height.
        taken = (_HOST_LINES if self._frame is not None else 0) + 1 + self._log_height + _FRAME
        height = min(_STEPS, max(1, self._console.height - taken))
        parts.append(_lines(list(self._steps)[-height:], last_style="bold yellow"))
        if self._log and self._log_height:
            parts += [Text(" hasql's log", "dim"), _lines(list(self._log)[-self._log_height :])]
        elapsed = time.monotonic() - self._began
        return Panel(
            Group(*parts),
            title=Text(self._title, "bold"),
            title_align="left",
            subtitle=Text(f"{elapsed:.1f} s · {self._ending}", "dim"),
            subtitle_align="right",
            border_style="blue",
        )

    @property
    def _log_height(self) -> int:
        return _LOG_LINES if self._console.height >= _ROOMY else 2

    def _load(self, frame: Frame) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        rates = (("writes", self._writes, "green"), ("reads", self._reads, "cyan"))
        for name, rate, style in rates:
            table.add_row(
                Text(f" {name}", "bold"),
                Text(f"{rate.now:6,.0f}/s", style),
                Text(rate.sparkline(), style),
            )
        failed = Text(f"{frame.failed:6d}  ", "red" if frame.failed else "dim")
        words = Text(frame.last_error or "", "red", no_wrap=True, overflow="ellipsis")
        table.add_row(Text(" failed", "bold"), failed, words)
        return table


def _lines(lines: list[_Line], last_style: str = "") -> RenderableType:
    text = Text(no_wrap=True, overflow="ellipsis")
    for number, line in enumerate(lines, 1):
        last = number == len(lines)
        text.append(f" {line.at:5.1f} s  ", "dim")
        text.append(line.text + ("" if last else "\n"), last_style if last else "")
    return text


def _hosts(frame: Frame, space: int) -> RenderableType:
    table = Table(
        expand=True,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        header_style="bold",
        padding=(0, space),
        collapse_padding=True,
    )
    for heading in ("host", "role", "health"):
        table.add_column(heading, no_wrap=True)
    for heading in ("since", "timeline", "leased", "response"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, node in zip(frame.names, frame.metrics.nodes, strict=True):
        table.add_row(*_host(name, node))
    return table


def _host(name: str, node: NodeMetrics) -> list[Text]:
    role = Text(node.role.value, _ROLE_STYLES[node.role])
    if node.exclusion is not None:
        # A fenced host may no longer answer; show that it does not serve, rather than its role.
        role = Text(node.exclusion.name.lower(), "bold red")
    milliseconds = "" if node.response_time is None else f"{node.response_time * 1000:.1f} ms"
    master = node.role is Role.MASTER or node.exclusion is Exclusion.FENCED
    return [
        Text.assemble((name, "bold"), f" {node.host}"),
        role,
        Text(node.health.value, _HEALTH_STYLES[node.health]),
        Text(f"{node.unchanged_for:.1f} s"),
        Text(str(node.timeline) if master and node.timeline is not None else ""),
        Text(f"{node.in_flight}/{node.pool_idle + node.pool_used}"),
        Text(milliseconds),
    ]
