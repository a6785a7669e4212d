"""Kills the servers of a cluster whose owner is gone, and removes its files.

This module runs as a script in its own session (``python -I -S _watchdog.py ROOT BINDIR``). Its
standard input is the read end of a pipe. Only the owner holds the other end, so end of file means
that the owner is gone, for whatever reason. The script imports nothing from hasql, because the
owner may run from anywhere.
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
"""Seconds after which the cleaning ends even if some process or file is still there."""


class _Process(NamedTuple):
    pid: int
    parent: int
    command: str
    #: The start time, in the format of the system. Pids are reused; pid and start time are unique.
    started: str


def process_table(pids: Iterable[int] | None = None) -> list[_Process]:
    """List the processes of this machine, or those with the given pids; zombies are left out.

    The list comes from /proc if there is one, else from ps. It does not come from psutil, so that
    a few fields do not cost the owner of a test cluster a compiled dependency.
    """
    if Path("/proc/self/stat").exists():
        if pids is None:
            pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()]
        found = (_read_process(Path(f"/proc/{pid}")) for pid in pids)
        return [process for process in found if process is not None]
    listing = subprocess.run(
        # In the locale C the start time has five words.
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
    """Tell whether the process is one of our programs, running for this cluster.

    The command line tells (a postmaster keeps ``bindir/postgres -D root/...``). Where this user
    may read them, program and working directory tell as well; they reveal backends whose
    postmaster is gone. Root in a container without CAP_SYS_PTRACE may not read them, and then the
    command line has to suffice.
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
    """Kill the cluster's processes, wait until they have freed their memory, return their pids."""
    killed: dict[int, str] = {}
    while True:
        table = process_table()
        pids = _processes_of(table, root, bindir)
        # A process that is ending no longer tells its program and working directory, so it is
        # recognized by its pid and start time.
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

    Call this when its processes are gone. The segment (a few bytes that guard the data directory)
    survives a SIGKILL; the seventh line of postmaster.pid names it.
    """
    lock_file = data / "postmaster.pid"
    try:
        lines = lock_file.read_text().splitlines()
        pid, segment = int(lines[0]), int(lines[6].split()[1])
    except (OSError, ValueError, IndexError):
        pass
    else:
        # Segment numbers are reused: only remove a segment that this very postmaster made.
        makers = _segment_makers()
        if makers is None or makers.get(segment) == pid:
            _remove_segments([segment])
    lock_file.unlink(missing_ok=True)


def _segment_makers() -> dict[int, int] | None:
    """Return the id and maker of each unused segment that looks like a postmaster's.

    Return None if the system does not tell.
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
    :param bindir: the real path of the PostgreSQL programs; only they and their descendants are
        ever killed
    :param ended: the pids of the cluster's postmasters that have just ended
    """
    until = time.monotonic() + _TIMEOUT
    gone = set(ended)
    while True:
        gone |= _kill_all(root, bindir, until)
        # A postmaster that ended while it was starting has not written its segment's number to the
        # lock file yet, so its segments are found by their maker.
        makers = _segment_makers() or {}
        _remove_segments(segment for segment, maker in makers.items() if maker in gone)
        for data in Path(root).glob("*/data"):
            try:
                forget_postmaster(data)
            except (OSError, subprocess.SubprocessError):
                continue  # a few bytes of memory left over must not keep the files from going
        shutil.rmtree(root, ignore_errors=True)
        if not Path(root).exists() or time.monotonic() > until:
            return
        time.sleep(0.05)  # some process was still writing


def _main() -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    owner = os.getppid()
    # The pipe alone is not enough: a fork of the owner may still hold it open when the owner ends.
    while os.getppid() == owner and not select.select([sys.stdin], [], [], 1.0)[0]:
        pass
    clean_up(sys.argv[1], sys.argv[2])


if __name__ == "__main__":
    _main()
