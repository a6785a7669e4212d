"""The command line."""

import asyncio
import json
import signal
import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from hasql import __version__
from hasql.cli.demo import Demo, Plan
from hasql.cli.face import Face
from hasql.cli.fault import Fault
from hasql.cli.live import LiveScreen
from hasql.cli.report import Report
from hasql.cli.screen import PlainScreen, Screen
from hasql.cli.summary import summary
from hasql.errors import HasqlError

__all__ = ("app",)

_FAILED, _USAGE, _INTERRUPTED, _TERMINATED = 1, 2, 130, 143
_PLAIN_WIDTH = 120
"""Columns of the summary if the output is not a terminal."""

app = typer.Typer(
    help="Connections to the right server of a replicated PostgreSQL cluster.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        print(f"hasql {__version__}")
        raise typer.Exit


@app.callback()
def _hasql(
    *,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Connections to the right server of a replicated PostgreSQL cluster."""


@app.command()
def demo(  # noqa: PLR0913 - each is an option
    *,
    fault: Annotated[
        Fault,
        typer.Option(
            metavar="NAME",
            help="What happens: crash, freeze, switchover (all of the master), replica, or dns:"
            " the master's name moves.",
        ),
    ] = Fault.CRASH,
    duration: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long the application runs.")
    ] = 10.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, and progress on stderr.")
    ] = False,
    writers: Annotated[int, typer.Option(help="Tasks or threads that insert rows.")] = 4,
    readers: Annotated[int, typer.Option(help="Tasks or threads that read from replicas.")] = 4,
    face: Annotated[
        Face,
        typer.Option(
            metavar="async|sync",
            help="What the application runs on: tasks over asyncpg, or threads over psycopg.",
        ),
    ] = Face.ASYNC,
    version: Annotated[
        int | None,
        typer.Option(
            metavar="16|18", help="PostgreSQL's major version.", show_default="the newest"
        ),
    ] = None,
) -> None:
    """Watch an application keep working while a real three-node cluster loses its master.

    Everything runs on this machine, on ports of its own, and is removed at the end.

    The exit code is 0 if service came back and no acknowledged row is missing,
    except those that the old master had not yet shipped when it died; else it is 1.
    """
    console = Console() if sys.stdout.isatty() else Console(width=_PLAIN_WIDTH)
    try:
        plan = Plan(fault, duration, writers, readers, version, face)
        report = _run(plan, console, as_json=as_json)
    except HasqlError as error:
        _fail(str(error), _USAGE if isinstance(error, ValueError) else _FAILED)
    except KeyboardInterrupt:
        _fail("interrupted; everything is stopped and removed", _INTERRUPTED)
    except asyncio.CancelledError:
        _fail("terminated; everything is stopped and removed", _TERMINATED)
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        console.print(summary(report))
    raise typer.Exit(0 if report.ok else _FAILED)


def _run(plan: Plan, console: Console, *, as_json: bool) -> Report:
    screen: Screen
    if as_json:
        screen = PlainScreen(sys.stderr)
    elif console.is_terminal:
        screen = LiveScreen(console, f"hasql demo: {plan.fault.description}")
    else:
        screen = PlainScreen(sys.stdout)
    try:
        return asyncio.run(_until_terminated(Demo(plan, screen)))
    finally:
        screen.close()


async def _until_terminated(demo: Demo) -> Report:
    """Run the demo, and end it in order at a SIGTERM, as asyncio does at Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - asyncio.run() makes one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await demo.run()


def _fail(message: str, code: int) -> NoReturn:
    print(f"hasql demo: {message}", file=sys.stderr)
    raise typer.Exit(code)
