"""Draw the demo as it ran: an animated SVG of its screen, from a real run.

    make demo-picture
    python tools/demo_picture.py resources/demo.svg

The animation plays at the speed of the real run. The last picture, with the summary below it, stays
for a while. A reader whose browser asks for reduced motion sees that picture alone.
"""

import asyncio
import re
import sys
import time
from io import StringIO
from pathlib import Path

from rich.console import Console, Group, RenderableType

from hasql.cli.demo import Demo, Plan
from hasql.cli.fault import Fault
from hasql.cli.live import LiveScreen
from hasql.cli.report import Report
from hasql.cli.screen import Frame
from hasql.cli.summary import summary

_WIDTH, _HEIGHT = 110, 24
"""The columns of the terminal that is drawn, and the lines of its live screen."""
_CHARACTER, _LINE, _MARGIN = 12.2, 24.4, 14
"""Rich's width of a character and height of a line, and the margin of the picture, in SVG units."""
_CALM, _BUSY = 1.0, 0.25
"""Seconds between two pictures: normally, and shortly after a line of the log."""
_AGITATION = 1.2
"""Seconds for which pictures follow each other quickly after each line of the log."""
_STAY = 8.0
"""Seconds for which the summary stays."""

# The template that rich fills in for one picture. The window around all of them is drawn once.
_ONE = """\
<style>{styles}</style>
<defs>{lines}</defs>
<g class="{unique_id}-matrix">{backgrounds}{matrix}</g>"""
_WHOLE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"
 aria-labelledby="title">
<title id="title">hasql demo: a master is killed, a replica is promoted, and writing goes on</title>
<style>
text {{ font: 20px 'DejaVu Sans Mono', Menlo, Consolas, monospace; white-space: pre; }}
.frame {{ visibility: hidden; animation: {length:.2f}s step-end infinite; }}
.last {{ visibility: visible; }}
@media (prefers-reduced-motion: reduce) {{ .frame {{ animation: none !important; }} }}
{keyframes}
</style>
<rect width="{width}" height="{height}" rx="10" fill="#16181d"/>
{frames}
</svg>
"""


class Camera:
    """Takes pictures of what a live screen shows."""

    period = LiveScreen.period

    def __init__(self, title: str) -> None:
        self._console = Console(
            file=StringIO(), width=_WIDTH, height=_HEIGHT, force_terminal=True, _environ={}
        )
        self._screen = LiveScreen(self._console, title)
        self._next = self._busy_until = time.monotonic()
        #: Each picture with the time at which it was taken. `lines` is the height of the last one.
        self.pictures: list[tuple[float, str]] = []
        self.lines = 0

    def tell(self, text: str) -> None:
        """Show a step."""
        self._screen.tell(text)

    def log(self, text: str) -> None:
        """Show a line that hasql has logged."""
        self._screen.log(text)
        self._busy_until = time.monotonic() + _AGITATION
        self._next = min(self._next, time.monotonic())

    async def show(self, frame: Frame) -> None:
        """Show the current state, and take a picture if it is time for one."""
        await self._screen.show(frame)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + (_BUSY if now < self._busy_until else _CALM)
            # Drawing takes a while, and the application that is measured runs on this event loop.
            await asyncio.to_thread(self.take, self._screen.render())

    def close(self) -> None:
        """End the live screen."""
        self._screen.close()

    def take_last(self, report: Report) -> None:
        """Take the last picture: the screen, and below it the summary."""
        self.take(Group(self._screen.render(), summary(report)))

    def take(self, what: RenderableType) -> None:
        """Take a picture."""
        at = time.monotonic()
        console = Console(
            file=StringIO(),
            width=_WIDTH,
            record=True,
            force_terminal=True,
            color_system="truecolor",
            _environ={},
        )
        console.print(what)
        self.lines = console.export_text(clear=False).count("\n")
        uid = f"f{len(self.pictures)}"
        self.pictures.append((at, console.export_svg(code_format=_ONE, unique_id=uid)))


def compose(pictures: list[tuple[float, str]], lines: int) -> str:
    """Make one SVG that shows each picture for as long as it was on the screen."""
    starts = [at - pictures[0][0] for at, _ in pictures]
    length = starts[-1] + _STAY
    ends = [*starts[1:], length]
    frames, keyframes = [], []
    for number, (start, end, (_, picture)) in enumerate(zip(starts, ends, pictures, strict=True)):
        begin, stop = 100 * start / length, 100 * end / length
        keyframes.append(
            f"@keyframes k{number} {{ 0% {{ visibility: hidden }} {begin:.2f}% "
            f"{{ visibility: visible }} {stop:.2f}% {{ visibility: hidden }} }}"
        )
        last = " last" if number == len(pictures) - 1 else ""
        frames.append(
            f'<g class="frame{last}" style="animation-name: k{number}" '
            f'transform="translate({_MARGIN}, {_MARGIN})">{_slim(picture)}</g>'
        )
    return _WHOLE.format(
        width=round(_WIDTH * _CHARACTER) + 2 * _MARGIN,
        height=round(lines * _LINE) + 2 * _MARGIN,
        length=length,
        keyframes="\n".join(keyframes),
        frames="\n".join(frames),
    )


def _slim(picture: str) -> str:
    """Remove markup that draws nothing: clipping, and blanks."""
    picture = re.sub(r"<defs>.*?</defs>", "", picture, flags=re.DOTALL)
    picture = re.sub(r' clip-path="[^"]*"', "", picture)
    picture = re.sub(r"<text [^>]*>(?:&#160;|\s)*</text>", "", picture)
    return re.sub(r"\s*\n\s*", "\n", picture)


def main() -> None:
    """Run the demo and write the picture to the file named on the command line."""
    (path,) = map(Path, sys.argv[1:])
    plan = Plan(Fault.CRASH, 8.0)
    camera = Camera(f"hasql demo: {plan.fault.description}")
    try:
        report = asyncio.run(Demo(plan, camera).run())
    finally:
        camera.close()
    camera.take_last(report)
    if not report.ok:
        sys.exit("the demo did not end well: " + "; ".join(report.problems))
    path.write_text(compose(camera.pictures, camera.lines), encoding="utf-8")
    print(f"{path}: {len(camera.pictures)} pictures, {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
