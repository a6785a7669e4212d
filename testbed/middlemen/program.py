"""The base of middle men that are programs of Debian's: finds, starts and ends them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hasql.testing._account import Account

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("NONE", "MissingProgramError", "Program", "why_missing")

NONE = "this machine has no"
"""The beginning of the reason for a skip; the summary of a test run looks for it."""

_PATIENCE = 10.0
"""Seconds that a program may take to listen, or to end."""

_ATTEMPTS = 3
"""How often to try to start when other processes take a chosen port first."""


class MissingProgramError(Exception):
    """The program is not on this machine; the text says how to install it."""


class _StartError(Exception):
    pass


def _find(name: str) -> str | None:
    # Daemons are in directories that are not on an ordinary user's PATH.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])
    return shutil.which(name, path=path)


def why_missing(*names: str) -> str | None:
    """Return a text about missing programs and how to install them, or None if all are here.

    Each program is in the package of the same name.
    """
    missing = [name for name in names if _find(name) is None]
    if not missing:
        return None
    packages = " ".join(missing)
    return f"{NONE} {' and no '.join(missing)}: apt-get install {packages}"


class Program:
    """A program with a directory of its own; use it in ``with``, in the main thread.

    It ends with the thread that has started it, even if this process is killed.
    """

    #: The name of the program.
    name: str
    host = "127.0.0.1"

    def __init__(self) -> None:
        self._program = _find(self.name)
        if self._program is None:
            raise MissingProgramError(why_missing(self.name))
        self._account = Account.for_servers()
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix=f"hasql-{self.name}-"))
        try:
            self._give(self._directory)
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    self._start()
                    break
                except _StartError:
                    if attempt == _ATTEMPTS:
                        raise
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the program and remove its files; calling this again does no harm."""
        self._end()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def kill(self) -> None:
        """Kill the program at once, like a crash; its connections are reset."""
        self._running().kill()
        self._running().wait()

    def freeze(self) -> None:
        """Stop the program at once (SIGSTOP): connections stay open, but silent."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the program go on (SIGCONT)."""
        self._running().send_signal(signal.SIGCONT)

    # Subclasses implement the following methods.

    def configure(self) -> list[str]:
        """Choose free ports, write files, and return the program's arguments."""
        raise NotImplementedError

    @property
    def listening(self) -> list[int]:
        """The ports that the program listens on once it is up."""
        raise NotImplementedError

    def write(self, name: str, text: str) -> str:
        """Write a file in the program's directory; return its path."""
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)
        self._give(path)
        return str(path)

    @property
    def directory(self) -> Path:
        """The directory of the program's files."""
        assert self._directory is not None, "use it in `with`"
        return self._directory

    @property
    def log(self) -> str:
        """The program's output so far."""
        return (self.directory / "log").read_text(errors="replace")

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "use it in `with`"
        return self._process

    def _give(self, path: Path) -> None:
        if self._account.uid is not None and self._account.gid is not None:
            os.chown(path, self._account.uid, self._account.gid)

    def _start(self) -> None:
        assert self._program is not None
        # The program must not outlive this process, even if it is killed. setpriv belongs to
        # Linux's util-linux.
        setpriv = shutil.which("setpriv")
        prefix = [setpriv, "--pdeathsig=KILL"] if setpriv else []
        arguments = self.configure()
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, self._program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(self.directory)},
                start_new_session=True,
                user=self._account.uid,
                group=self._account.gid,
                extra_groups=self._account.groups,
            )
        try:
            for port in self.listening:
                self._await_port(port)
        except BaseException:
            self._end()
            raise

    def _await_port(self, port: int) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            if self._running().poll() is not None or time.monotonic() > until:
                raise _StartError(f"{self.name} does not listen; it said: {self.log[-2000:]}")
            with socket.socket() as trial:
                trial.settimeout(1)
                if trial.connect_ex((self.host, port)) == 0:
                    return
            time.sleep(0.005)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        process.send_signal(signal.SIGCONT)  # a frozen program would not get the first signal
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
