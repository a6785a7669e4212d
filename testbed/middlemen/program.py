"""A program of Debian's that a middle man is: found, started, ended."""

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
"""How the reason for a skip begins that the end of a run tells."""

_PATIENCE = 10.0
"""Seconds that a program may take to listen, or to end."""

_ATTEMPTS = 3
"""How often to start when another process is quicker in taking a port."""


class MissingProgramError(Exception):
    """The program is not on this machine; the text says what brings it."""


class _StartError(Exception):
    pass


def _find(name: str) -> str | None:
    # Daemons are where an ordinary user's PATH does not lead.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])
    return shutil.which(name, path=path)


def why_missing(*names: str) -> str | None:
    """Return which programs are not here and how they get here, None if all are.

    Each is in the package of its name.
    """
    missing = [name for name in names if _find(name) is None]
    if not missing:
        return None
    packages = " ".join(missing)
    return f"{NONE} {' and no '.join(missing)}: apt-get install {packages}"


class Program:
    """A program with a directory of its own; use it in ``with``, in the main thread.

    It ends with the thread that has started it, even if that is killed.
    """

    #: What it is called.
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
        """End the program and remove its files; more than once does no harm."""
        self._end()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def kill(self) -> None:
        """Kill it at once, as a crash would; its connections are reset."""
        self._running().kill()
        self._running().wait()

    def freeze(self) -> None:
        """Stop it at once (SIGSTOP): connections stay open, all is quiet."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self._running().send_signal(signal.SIGCONT)

    # What a kind of program says about itself.

    def configure(self) -> list[str]:
        """Choose free ports, write files, and return the arguments."""
        raise NotImplementedError

    @property
    def listening(self) -> list[int]:
        """The ports on which it listens once it is up."""
        raise NotImplementedError

    def write(self, name: str, text: str) -> str:
        """Write a file of the program's; return its path."""
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)
        self._give(path)
        return str(path)

    @property
    def directory(self) -> Path:
        """Where its files are."""
        assert self._directory is not None, "use it in `with`"
        return self._directory

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.directory / "log").read_text(errors="replace")

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "use it in `with`"
        return self._process

    def _give(self, path: Path) -> None:
        if self._account.uid is not None and self._account.gid is not None:
            os.chown(path, self._account.uid, self._account.gid)

    def _start(self) -> None:
        assert self._program is not None
        # Whatever happens to us, it does not outlive us; setpriv is part of Linux's util-linux.
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
        process.send_signal(signal.SIGCONT)  # one that was frozen would not hear it
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
