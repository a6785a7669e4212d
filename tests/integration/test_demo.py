"""`hasql demo` as a user runs it: in a process of its own, on real servers."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import hasql
from hasql.testing._watchdog import process_table

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "hasql.cli"]
#: Seconds. An idle machine needs a fraction of one; without hasql it would take to the demo's end.
_SOON = 2.0
ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {library!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from hasql.cli import main
main()
"""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """The directory of a demo's cluster, in which the test finds what the demo leaves behind."""
    # The path is short, because it holds sockets. The account that runs root's servers can enter
    # it.
    with tempfile.TemporaryDirectory(prefix="hasql-test-") as place:
        Path(place).chmod(0o755)
        yield Path(place)


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "TERM": "xterm-256color", **extra}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def demo_report(fault: str, seconds: int, face: str = "async") -> dict[str, Any]:
    done = run("demo", "--json", "--fault", fault, "--duration", str(seconds), "--face", face)
    assert "Traceback" not in done.stderr, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)  # stdout holds nothing but the document
    assert (done.returncode, report["ok"], report["problems"]) == (0, True, []), done.stderr
    assert (report["fault"], report["face"]) == (fault, face)
    assert report["load_seconds"] >= seconds
    assert report["most_failures_of_one_task"] <= 1, report["failures"]
    assert report["hung"] == 0
    assert report["whole_again_after"] > 0
    rows = report["rows"]
    assert rows["acknowledged"] == report["writes"] > 100
    assert rows["present"] + rows["not_shipped"] == rows["acknowledged"]
    assert rows["lost"] == 0
    return report


def left_behind(scratch: Path) -> list[str]:
    processes = [each.command for each in process_table() if str(scratch) in each.command]
    return processes + [str(path) for path in scratch.iterdir()]


def test_writing_goes_on_after_the_master_was_killed() -> None:
    report = demo_report("crash", 5)
    outage = report["outage"]
    assert outage["without_master"] >= 0.5  # the HA manager's pause
    # A write under way at the kill may still be acknowledged some milliseconds after it began.
    assert outage["without_writes"] > outage["without_master"] - 0.1
    assert 0 <= outage["added_by_hasql"] < _SOON
    assert all(each["task"].startswith("writer") for each in report["failures"])
    assert [event["at"] for event in report["events"]] == sorted(
        event["at"] for event in report["events"]
    )


def test_threads_go_on_writing_after_the_master_was_killed() -> None:
    report = demo_report("crash", 5, "sync")
    assert 0 <= report["outage"]["added_by_hasql"] < _SOON
    assert report["reads"] > 100
    assert all(each["task"].startswith("writer") for each in report["failures"])


def test_a_frozen_master_is_replaced_and_acknowledges_nothing_when_it_thaws() -> None:
    report = demo_report("freeze", 7)
    assert 0 <= report["outage"]["added_by_hasql"] < _SOON


def test_readers_go_on_when_a_replica_is_killed() -> None:
    report = demo_report("replica", 5)
    assert report["outage"] is None
    assert report["rows"]["not_shipped"] == 0
    assert report["longest_pause_in_reads"] < 1.4, "the replica is down for 1.5 s"
    assert all(each["task"].startswith("reader") for each in report["failures"])


def test_nothing_fails_when_the_master_s_name_moves_and_the_nameserver_goes_away() -> None:
    report = demo_report("dns", 6)
    assert report["outage"] is None
    assert report["failures"] == []
    assert report["rows"]["not_shipped"] == 0
    moved = report["moved"]
    assert (moved["name"], moved["to"]) == ("node1.demo.test", "127.0.0.2")
    assert moved["old_for"] < 1.1 + _SOON  # after the TTL
    assert moved["new_after"] < 1.1 + _SOON


def test_without_a_terminal_the_demo_prints_lines_and_a_table() -> None:
    command = ("demo", "--fault", "switchover", "--duration", "5", "--version", "16")
    done = run(*command, "--face", "sync")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    assert re.search(r"^ +0\.\d\d s  starting a PostgreSQL cluster", done.stdout, re.MULTILINE)
    assert re.search(r"\d writes/s, \d+ reads/s", done.stdout)
    for words in (
        "shut down cleanly",
        "time without writes",
        "of it without a master",
        "added by hasql",
        "failed operations",
        "verified present",
        "4 readers begin in threads",
        "switchover, sync, PostgreSQL 16.",
        "Service came back",
    ):
        assert words in done.stdout


class Terminal:
    """A demo on a terminal."""

    def __init__(self, scratch: Path, *arguments: str) -> None:
        self._file, other = os.openpty()
        try:
            self._demo = subprocess.Popen(
                [*COMMAND, *arguments],
                env=environment(TMPDIR=str(scratch)),
                stdin=other,
                stdout=other,
                stderr=other,
                start_new_session=True,
            )
        finally:
            os.close(other)
        self.output = ""

    def read_until(self, words: str) -> None:
        while words not in self.output:
            assert self._read(), self.output

    def interrupt(self) -> None:
        """Do what Ctrl-C does: signal every process of the terminal's group."""
        os.killpg(self._demo.pid, signal.SIGINT)

    def exit_code(self) -> int:
        while self._read():
            pass
        return self._demo.wait(10)

    def _read(self) -> bool:
        try:
            readable, _, _ = select.select([self._file], [], [], 30)
            data = os.read(self._file, 65536) if readable else b""
        except OSError:  # how Linux says that the other end is closed
            return False
        self.output += data.decode(errors="replace")
        return bool(data)

    def close(self) -> None:
        os.close(self._file)
        self._demo.kill()
        self._demo.wait(10)


def test_on_a_terminal_hosts_are_shown_live_and_ctrl_c_ends_and_removes_all(
    scratch: Path,
) -> None:
    with closing(Terminal(scratch, "demo", "--duration", "60")) as terminal:
        terminal.read_until("replica")
        terminal.read_until("writes")
        assert left_behind(scratch)
        terminal.interrupt()
        assert terminal.exit_code() == 130
    assert "interrupted; everything is stopped and removed" in terminal.output
    assert "Traceback" not in terminal.output
    # Each time the cursor was hidden it is shown again.
    assert terminal.output.count("\x1b[?25h") == terminal.output.count("\x1b[?25l")
    assert left_behind(scratch) == []


@pytest.mark.parametrize("face", ["async", "sync"])
def test_a_demo_that_is_terminated_removes_all(scratch: Path, face: str) -> None:
    with subprocess.Popen(
        [*COMMAND, "demo", "--face", face],
        env=environment(TMPDIR=str(scratch)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        assert any("writers and 4 readers begin" in line for line in demo.stdout)
        demo.send_signal(signal.SIGTERM)
        _, errors = demo.communicate(timeout=30)
    assert (demo.returncode, errors) == (
        143,
        "hasql demo: terminated; everything is stopped and removed\n",
    )
    assert left_behind(scratch) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--duration", "1"], "takes at least 5"),
        (["--duration", "5", "--fault", "freeze"], "takes at least 7"),
        (["--duration", "5", "--fault", "dns"], "takes at least 6"),
        (["--duration", "nan"], "give 5 to 3600 seconds"),
        (["--duration", "soon"], "--duration"),
        (["--fault", "fire"], "switchover"),
        (["--face", "both"], "sync"),
        (["--writers", "0"], "--writers 0: give 1 to"),
        (["--readers", "1000"], "--readers 1000: give 1 to"),
        (["--version", "3"], "version=3: give a major version"),
        (["--colour"], "--colour"),
    ],
)
def test_bad_input_is_refused_with_a_clear_error(arguments: list[str], words: str) -> None:
    done = run("demo", "--json", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_version_is_shown() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"hasql {hasql.__version__}\n")


def test_help_names_every_option_of_the_demo() -> None:
    done = run("demo", "--help")
    assert done.returncode == 0
    options = "--fault", "--duration", "--json", "--writers", "--readers", "--face", "--version"
    for option in options:
        assert option in done.stdout


def test_help_names_every_fault() -> None:
    done = run("demo", "--help")
    for fault in ("crash", "freeze", "switchover", "replica", "dns"):
        assert fault in done.stdout


@pytest.mark.parametrize("library", ["typer", "rich", "asyncpg", "psycopg", "dns"])
def test_a_missing_library_is_explained_by_the_extra(library: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABSENT.format(library=library), "demo"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"The command hasql needs {library}: pip install 'hasql[cli]'\n"
