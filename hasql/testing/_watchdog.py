"""Ends the servers of a cluster whose owner is gone, down to its last file.

Runs as a script in a session of its own (``python -I -S _watchdog.py ROOT BINDIR``), with the read
end of a pipe as its standard input; only the owner holds the other end, so end of file means that
the owner is gone, however it went. Imports nothing of hasql: the owner may run from anywhere.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ("clean_up", "forget_postmaster", "process_table")

_SEGMENTS = Path("/proc/sysvipc/shm")

_TIMEOUT = 20.0
"""Seconds to go on for when something of the cluster does not go away."""


class _Process(NamedTuple):
    pid: int
    parent: int
    command: str
    #: When it was, in whatever words: pids are given away again, and this tells who it is.
    started: str


def process_table(pids: Iterable[int] | None = None) -> list[_Process]:
    """List the processes of this machine, or those of them that have these pids; no zombies.

    /proc where there is one, else ps: psutil is a compiled dependency that the owner of a test
    cluster need not have, and these few fields are all it would be used for.
    """
    if Path("/proc/self/stat").exists():
        if pids is None:
            pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()]
        found = (_read_process(Path(f"/proc/{pid}")) for pid in pids)
        return [process for process in found if process is not None]
    listing = subprocess.run(
        # The time of the start has five words in this locale.
        ["/bin/ps", "-axww", "-o", "pid=,ppid=,state=,lstart=,command="],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
        env={"LC_ALL": "C"},
    ).stdout
    rows = (line.split(None, 8) for line in listing.splitlines())
    wanted = None if pids is None else set(pids)
    return [
        _Process(int(row[0]), int(row[1]), row[8], " ".join(row[3:8]))
        for row in rows
        if len(row) == 9 and not row[2].startswith("Z")  # noqa: PLR2004 - the nine words
        if wanted is None or int(row[0]) in wanted
    ]


def _read_process(place: Path) -> _Process | None:
    try:
        # The command between the parentheses may itself hold spaces and parentheses.
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        state, parent, started = fields[0], fields[1], fields[19]
        command = (place / "cmdline").read_bytes()
    except (OSError, IndexError):
        return None  # it has ended since it was listed
    if state == "Z":
        return None
    words = command.replace(b"\0", b" ").decode(errors="replace")
    return _Process(int(place.name), int(parent), words, started)


def _belongs(process: _Process, root: str, bindir: str) -> bool:
    """Tell whether the process is a program of ours at work on this cluster.

    By its command line (a postmaster keeps ``bindir/postgres -D root/...``), and, where this user
    may look, by program and working directory: that finds backends whose postmaster is gone.
    Root in a container without CAP_SYS_PTRACE may not look; then the command line has to do.
    """
    if process.command.startswith(bindir + "/") and root + "/" in process.command:
        return True
    try:
        program = str(Path(f"/proc/{process.pid}/exe").readlink())
        directory = str(Path(f"/proc/{process.pid}/cwd").readlink())
    except OSError:
        return False
    return program.startswith(bindir + "/") and (directory + "/").startswith(root + "/")


def _processes_of(table: list[_Process], root: str, bindir: str) -> set[int]:
    found = {process.pid for process in table if _belongs(process, root, bindir)}
    grown = True
    while grown:
        offspring = {process.pid for process in table if process.parent in found} - found
        found |= offspring
        grown = bool(offspring)
    return found - {os.getpid()}


def _kill_all(root: str, bindir: str, until: float) -> set[int]:
    """Kill them, and wait until they have let go of their memory; return their pids."""
    killed: dict[int, str] = {}
    while True:
        table = process_table()
        pids = _processes_of(table, root, bindir)
        # One that is about to end does not tell any more what program it is, or where.
        ending = [each for each in table if killed.get(each.pid) == each.started]
        killed.update((each.pid, each.started) for each in table if each.pid in pids)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        if not (pids or ending) or time.monotonic() > until:
            return {*killed}
        time.sleep(0.005)


def forget_postmaster(data: Path) -> None:
    """Remove what a killed postmaster leaves: its lock file and its System V memory segment.

    To be called when its processes are gone. The segment (a few bytes that guard the data
    directory) outlives a SIGKILL; the seventh line of postmaster.pid names it.
    """
    lock_file = data / "postmaster.pid"
    try:
        lines = lock_file.read_text().splitlines()
        pid, segment = int(lines[0]), int(lines[6].split()[1])
    except (OSError, ValueError, IndexError):
        pass
    else:
        # Numbers are used again: only a segment made by this very postmaster is ours.
        makers = _segment_makers()
        if makers is None or makers.get(segment) == pid:
            _remove_segments([segment])
    lock_file.unlink(missing_ok=True)


def _segment_makers() -> dict[int, int] | None:
    """Return which process made each segment that looks like a postmaster's and is not in use.

    None where the system does not tell.
    """
    try:
        rows = [line.split() for line in _SEGMENTS.read_text().splitlines()[1:]]
    except OSError:
        return None
    # The columns: key, id, permissions, size, creator, last user, attached.
    return {int(row[1]): int(row[4]) for row in rows if row[3] == "56" and row[6] == "0"}


def _remove_segments(segments: Iterable[int]) -> None:
    ipcrm = shutil.which("ipcrm", path="/usr/bin:/bin")
    for segment in segments if ipcrm else ():
        subprocess.run(
            [str(ipcrm), "-m", str(segment)], capture_output=True, timeout=10, check=False
        )


def clean_up(root: str, bindir: str, ended: Iterable[int] = ()) -> None:
    """Kill every process of the cluster below `root`, also frozen ones, and remove the directory.

    :param root: the real path of the directory that holds the cluster
    :param bindir: the real path of the PostgreSQL programs; only these are ever killed
    :param ended: postmasters of the cluster that are known to have ended just now
    """
    until = time.monotonic() + _TIMEOUT
    gone = set(ended)
    while True:
        gone |= _kill_all(root, bindir, until)
        # One that ended while it was starting had not written down its segment yet.
        makers = _segment_makers() or {}
        _remove_segments(segment for segment, maker in makers.items() if maker in gone)
        for data in Path(root).glob("*/data"):
            try:
                forget_postmaster(data)
            except (OSError, subprocess.SubprocessError):
                continue  # a few bytes of memory are no reason to leave the files behind
        shutil.rmtree(root, ignore_errors=True)
        if not Path(root).exists() or time.monotonic() > until:
            return
        time.sleep(0.05)  # something was still writing


def _main() -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    owner = os.getppid()
    # The pipe alone would do, were it not for a fork of the owner that may still hold it open.
    while os.getppid() == owner and not select.select([sys.stdin], [], [], 1.0)[0]:
        pass
    clean_up(sys.argv[1], sys.argv[2])


if __name__ == "__main__":
    _main()
