"""Where the servers of a cluster run: the few things a node asks of it."""

import signal
from typing import Protocol

__all__ = ("Machine", "Process")


class Process(Protocol):
    """A postmaster and the processes it started."""

    @property
    def pid(self) -> int:
        """Return the postmaster's process id, on its own machine."""

    def alive(self) -> bool:
        """Tell whether the postmaster runs; a frozen one does, one that was killed does not."""

    def stopped(self) -> bool:
        """Tell whether the postmaster is known to be stopped, by whomever: it takes no sessions."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the postmaster alone."""

    def freeze(self) -> None:
        """Stop the postmaster and every child at once (SIGSTOP)."""

    def thaw(self) -> None:
        """Continue the postmaster and every child (SIGCONT)."""

    def kill(self) -> None:
        """Kill the postmaster and every child at once, frozen or not (SIGKILL)."""

    def wait(self, timeout: float) -> bool:
        """Wait until it is gone with its children; return False after `timeout` seconds."""


class Machine(Protocol):
    """Runs programs and keeps files; all paths are paths on that machine."""

    @property
    def root(self) -> str:
        """Return the directory that holds the cluster; short enough for a socket's path."""

    @property
    def bindir(self) -> str:
        """Return the directory of the PostgreSQL programs."""

    @property
    def version(self) -> str:
        """Return the version of PostgreSQL and where it comes from, for people."""

    @property
    def listen(self) -> str:
        """Return the address that servers listen on."""

    @property
    def clients(self) -> str:
        """Return the addresses that clients come from, as pg_hba.conf writes them."""

    def run(self, *command: str, stdin: str = "", timeout: float = 60.0) -> str:
        """Run a program as the servers' account and return what it printed.

        :raises ClusterError: when it fails, with the end of what it said, or takes longer than
            `timeout` seconds
        """

    def launch(self, *command: str, data: str, log: str) -> Process:
        """Start a postmaster in the background; what it says is appended to `log`."""

    def read(self, path: str) -> str | None:
        """Return the content of a file, None when there is none."""

    def write(self, path: str, text: str) -> None:
        """Write a file that the servers' account owns."""

    def share(self, name: str, text: str) -> str:
        """Write a file that clients on this machine can read, and return its path there."""

    def make_directory(self, path: str) -> None:
        """Make a directory that the servers' account owns and nobody else can read."""

    def query(self, port: int, sql: str, timeout: float) -> str:
        """Run `sql` as the superuser on the server of that port.

        :raises ClusterError: when the server refuses, is not there, or does not answer in time
        """

    def look(self, port: int, sql: str, timeout: float) -> str:
        """Do the same for `sql` that only looks: in a session that may be kept for the next.

        Its database is any.
        """

    def keeps_session(self, port: int) -> bool:
        """Tell whether a session is kept there for looking."""

    def end_session(self, port: int) -> None:
        """End the session that is kept for looking, if there is one."""

    def forget(self, data: str) -> None:
        """Remove what a killed postmaster left in its data directory and in memory."""

    def forget_socket(self, port: int) -> None:
        """Remove the lock of the socket that a killed postmaster left.

        A new one would take it for alive if its pid is somebody else's by now.
        """

    def close(self) -> None:
        """End every server and remove every file; what runs meanwhile fails."""
