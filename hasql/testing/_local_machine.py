"""This machine as the place where servers run: as child processes, with their files on its disk."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from hasql.testing import _control, _watchdog
from hasql.testing._account import Account
from hasql.testing._kept_sessions import KeptSessions
from hasql.testing.binaries import Binaries
from hasql.testing.errors import ClusterError

__all__ = ("LocalMachine",)


class _Ask(Protocol):
    def __call__(self, path: str, sql: str, *, timeout: float) -> str: ...


_LONGEST_ROOT = 107 - len("/run/.s.PGSQL.65535.lock")
"""The most bytes of a root directory's path: a socket's path below it has at most 107 bytes."""

_ROOM_IN_MEMORY = 2 << 30
"""How many bytes must be free in /dev/shm for it to be used."""


class LocalProcess:
    """A postmaster that is a child of this process, which therefore has to reap it."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self._killed = False
        #: The killed children that may not have ended yet: the pid and start time of each.
        self._dying: set[tuple[int, str]] = set()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def alive(self) -> bool:
        return not self._killed and self._popen.poll() is None

    def stopped(self) -> bool:
        options = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.pid, options) is not None
        except ChildProcessError:  # it has ended, or it is the child of another process
            return False

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def freeze(self) -> None:
        self._popen.send_signal(signal.SIGSTOP)
        # The postmaster may have been forking: list its children again until none is new.
        known: set[int] = set()
        while new := set(_children(self.pid)) - known:
            _signal_each(new, signal.SIGSTOP)
            known |= new

    def thaw(self) -> None:
        _signal_each(_children(self.pid), signal.SIGCONT)
        self._popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        # Stop the postmaster first: while it runs, it could fork a child that the list misses.
        self._popen.send_signal(signal.SIGSTOP)
        family = _children(self.pid)
        self._popen.send_signal(signal.SIGKILL)
        _signal_each(family, signal.SIGKILL)
        # Note the start times now: later the pids may belong to other processes.
        self._dying = _those_of(family)
        self._killed = True

    def wait(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        if not self._killed:
            return True  # a postmaster that ends by itself has waited for its children
        while self._dying:
            self._dying &= _those_of(pid for pid, _ in self._dying)
            if self._dying:
                if time.monotonic() > until:
                    return False
                time.sleep(0.002)
        return True


def _those_of(pids: Iterable[int]) -> set[tuple[int, str]]:
    """Return those of the processes that exist, each with its start time."""
    return {(each.pid, each.started) for each in _watchdog.process_table(pids)}


def _signal_each(pids: "list[int] | set[int]", number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _children(pid: int) -> list[int]:
    """Return the direct and indirect children of a process."""
    try:
        own = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # macOS, or a kernel built without it
        own = [str(each.pid) for each in _watchdog.process_table() if each.parent == pid]
    return [descendant for child in map(int, own) for descendant in (child, *_children(child))]


class LocalMachine:
    """Runs PostgreSQL's programs on this machine, below one temporary directory."""

    def __init__(self, binaries: Binaries, account: Account) -> None:
        self.bindir = str(binaries.bindir)
        self.version = f"{binaries.version} ({binaries.origin})"
        self.listen = "127.0.0.1"
        self.clients = "127.0.0.1/32"
        self._account = account
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._closed = False
        self._processes: list[LocalProcess] = []
        self._sessions = KeptSessions()
        self.root = _make_root(account)
        # The watchdog comes first: nothing else may run unwatched.
        self._watchdog, self._lifeline = _start_watchdog(self.root, self.bindir)

    def run(self, *command: str, stdin: str = "", timeout: float = 60.0) -> str:
        program = Path(command[0]).name
        if self._closed:
            message = f"the cluster has been closed; {program} no longer runs"
            raise ClusterError(message)
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
                cwd=self.root,
                env=self._environment(),
                start_new_session=True,
                user=self._account.uid,
                group=self._account.gid,
                extra_groups=self._account.groups,
                umask=0o077,
            )
        except subprocess.TimeoutExpired:
            message = f"{program} did not finish within {timeout:g} s"
            raise ClusterError(message) from None
        except OSError as error:
            message = f"{program} cannot be run as {self._account.name}: {error}"
            raise ClusterError(message) from error
        finally:
            if self._closed:  # while the program ran: initdb recreates directories removed under it
                _watchdog.clean_up(self.root, self.bindir)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-2000:]
            message = f"{program} failed with exit code {done.returncode}: {said}"
            raise ClusterError(message)
        return done.stdout

    def launch(self, *command: str, data: str, log: str) -> LocalProcess:
        del data  # not needed: this process knows its child's pid
        # A start and close() can race. The lock makes sure that no server starts after close() has
        # listed the servers to stop.
        with self._lock, contextlib.ExitStack() as stack:
            if self._closed:
                message = "the cluster has been closed; its servers no longer start"
                raise ClusterError(message)
            output = stack.enter_context(Path(log).open("ab"))
            process = LocalProcess(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self.root,
                    env=self._environment(),
                    # Ctrl-C in a terminal is meant for the application, not for its servers.
                    start_new_session=True,
                    user=self._account.uid,
                    group=self._account.gid,
                    extra_groups=self._account.groups,
                    umask=0o077,
                ),
            )
            self._processes.append(process)
            return process

    def _environment(self) -> dict[str, str]:
        # The caller's PG* variables are left out: they would direct programs to other servers.
        kept = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")
        inherited = {name: os.environ[name] for name in kept if name in os.environ}
        path = f"{self.bindir}:/usr/bin:/bin"
        return {**inherited, "PATH": path, "LC_ALL": "C", "HOME": self.root}

    def read(self, path: str) -> str | None:
        try:
            return Path(path).read_text(errors="replace")
        except OSError:
            return None

    def write(self, path: str, text: str) -> None:
        # Root writes here into a directory of another account, so symbolic links are not followed.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            message = f"cannot write {path}: {error.strerror}"
            raise ClusterError(message) from error
        with os.fdopen(descriptor, "w") as file:
            if self._account.uid is not None and self._account.gid is not None:
                os.fchown(descriptor, self._account.uid, self._account.gid)
            file.write(text)

    def share(self, name: str, text: str) -> str:
        path = f"{self.root}/{name}"
        self.write(path, text)
        Path(path).chmod(0o644)
        return path

    def query(self, port: int, sql: str, timeout: float) -> str:
        return self._ask(_control.query, port, sql, timeout)

    def look(self, port: int, sql: str, timeout: float) -> str:
        return self._ask(self._sessions.look, port, sql, timeout)

    def keeps_session(self, port: int) -> bool:
        return self._sessions.keeps(self._socket(port))

    def end_session(self, port: int) -> None:
        self._sessions.end(self._socket(port))

    def _socket(self, port: int) -> str:
        return f"{self.root}/run/.s.PGSQL.{port}"

    def _ask(self, ask: _Ask, port: int, sql: str, timeout: float) -> str:
        try:
            return ask(self._socket(port), sql, timeout=timeout)
        except TimeoutError:
            message = f"the server on port {port} did not answer within {timeout:g} s"
            raise ClusterError(message) from None
        except OSError as error:
            message = f"the server on port {port} cannot be reached: {error}"
            raise ClusterError(message) from error

    def make_directory(self, path: str) -> None:
        directory = Path(path)
        directory.mkdir(mode=0o700)
        if self._account.uid is not None and self._account.gid is not None:
            os.chown(directory, self._account.uid, self._account.gid)

    def forget(self, data: str) -> None:
        _watchdog.forget_postmaster(Path(data))

    def forget_socket(self, port: int) -> None:
        Path(f"{self._socket(port)}.lock").unlink(missing_ok=True)

    def close(self) -> None:
        if os.getpid() != self._owner:
            return  # a forked child: the servers belong to its parent
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            self._sessions.close()
            self._stop_all()
            ended = [process.pid for process in self._processes]
            _watchdog.clean_up(self.root, self.bindir, ended)
        finally:
            # Last, even if something above failed: from here on the watchdog removes what is left.
            with contextlib.suppress(OSError):
                os.close(self._lifeline)
            _open_lifelines.discard(self._lifeline)
            self._watchdog.wait(30)

    def _stop_all(self) -> None:
        """End the servers quickly, but in a way that lets them free their shared memory."""
        running = [process for process in self._processes if process.alive()]
        for process in running:
            process.signal(signal.SIGQUIT)
            process.thaw()
        for process in running:
            if not process.wait(3):
                process.kill()
        for process in self._processes:
            process.wait(10)


def _make_root(account: Account) -> str:
    for parent in _places():
        if len(os.path.realpath(parent)) + len("/hasql-4194304-12345678") > _LONGEST_ROOT:
            continue
        if not _may_enter(Path(parent).resolve(), account):
            continue
        root = os.path.realpath(tempfile.mkdtemp(prefix=f"hasql-{os.getpid()}-", dir=parent))
        if account.uid is not None and account.gid is not None:
            # Others may pass through, but not list or change it; the account's own files are below.
            Path(root).chmod(0o711)
        return root
    message = (
        "no temporary directory is short enough for a socket's path and open to "
        f"{account.name}; set TMPDIR to one, like /tmp"
    )
    raise ClusterError(message)


def _places() -> list[str]:
    """Return the directories that may hold the cluster, in order of preference."""
    places = [tempfile.gettempdir(), "/tmp", "/var/tmp"]  # noqa: S108
    if "TMPDIR" in os.environ:
        return places
    # Prefer memory if it has enough room: two copies of the data directory take up to two seconds
    # on a busy disk, and less than a tenth of a second there. Containers often have only 64 MB.
    with contextlib.suppress(OSError):
        room = os.statvfs("/dev/shm")  # noqa: S108
        if room.f_bavail * room.f_frsize >= _ROOM_IN_MEMORY:
            places.insert(0, "/dev/shm")  # noqa: S108
    return places


def _may_enter(directory: Path, account: Account) -> bool:
    if account.uid is None:
        return os.access(directory, os.W_OK | os.X_OK)
    return all(place.stat().st_mode & 0o001 for place in (directory, *directory.parents))


_open_lifelines: set[int] = set()


def _start_watchdog(root: str, bindir: str) -> "tuple[subprocess.Popen[bytes], int]":
    """Start the watchdog; return it and the end of the pipe whose closing makes it act."""
    read_end, lifeline = os.pipe()  # programs started from here inherit neither end
    try:
        watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", _watchdog.__file__, root, bindir],
            stdin=read_end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    except BaseException:
        os.close(lifeline)
        Path(root).rmdir()
        raise
    finally:
        os.close(read_end)
    _open_lifelines.add(lifeline)
    return watchdog, lifeline


def _drop_lifelines() -> None:
    """Close the pipes in a forked child, which would keep them open after the owner has ended."""
    for lifeline in _open_lifelines:
        with contextlib.suppress(OSError):
            os.close(lifeline)
    _open_lifelines.clear()


os.register_at_fork(after_in_child=_drop_lifelines)
