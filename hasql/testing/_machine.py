"""The machine that the servers of a cluster run on: what a node needs from it."""

import signal
from typing import Protocol

__all__ = ("Machine", "Process")


class Process(Protocol):
    """A postmaster and the processes it started."""

    @property
    def pid(self) -> int:
        """Return the postmaster's process id, on the machine where it runs."""

    def alive(self) -> bool:
        """Tell whether the postmaster runs: True if it is frozen, False if it was killed."""

    def stopped(self) -> bool:
        """Tell whether the postmaster is known to be stopped by any signal.

        A stopped postmaster accepts no sessions.
        """

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the postmaster alone."""

    def freeze(self) -> None:
        """Stop the postmaster and every child at once (SIGSTOP)."""

    def thaw(self) -> None:
        """Continue the postmaster and every child (SIGCONT)."""

    def kill(self) -> None:
        """Kill the postmaster and every child at once, frozen or not (SIGKILL)."""

    def wait(self, timeout: float) -> bool:
        """Wait until the postmaster and its children are gone; False after `timeout` seconds."""


class Machine(Protocol):
    """Runs programs and keeps files; all paths are paths on that machine."""

    @property
    def root(self) -> str:
        """Return the directory of the cluster; it is short enough to hold a socket's path."""

    @property
    def bindir(self) -> str:
        """Return the directory of the PostgreSQL programs."""

    @property
    def version(self) -> str:
        """Return the version of PostgreSQL and where it comes from, as text for people."""

    @property
    def listen(self) -> str:
        """Return the address that servers listen on."""

    @property
    def clients(self) -> str:
        """Return the addresses that clients connect from, in the notation of pg_hba.conf."""

    def run(self, *command: str, stdin: str = "", timeout: float = 60.0) -> str:
        """Run a program as the servers' account and return what it printed.

        :raises ClusterError: if the program fails, with the end of its output, or if it takes
            longer than `timeout` seconds
        """

    def launch(self, *command: str, data: str, log: str) -> Process:
        """Start a postmaster in the background; its output is appended to `log`."""

    def read(self, path: str) -> str | None:
        """Return the content of a file, or None if there is no such file."""

    def write(self, path: str, text: str) -> None:
        """Write a file that the servers' account owns."""

    def share(self, name: str, text: str) -> str:
        """Write a file that clients on this machine can read, and return its path there."""

    def make_directory(self, path: str) -> None:
        """Make a directory that the servers' account owns and nobody else can read."""

    def query(self, port: int, sql: str, timeout: float) -> str:
        """Run `sql` as the superuser on the server at `port`.

        :raises ClusterError: if the server refuses, does not run, or does not answer in time
        """

    def look(self, port: int, sql: str, timeout: float) -> str:
        """Do the same for `sql` that only reads, in a session that may be kept for the next call.

        The session may be in any database.
        """

    def keeps_session(self, port: int) -> bool:
        """Tell whether a session on the server at `port` is kept for `look`."""

    def end_session(self, port: int) -> None:
        """End the session that is kept for `look`, if there is one."""

    def forget(self, data: str) -> None:
        """Remove what a killed postmaster left behind in its data directory and in memory."""

    def forget_socket(self, port: int) -> None:
        """Remove the lock file of the socket that a killed postmaster left behind.

        If another process has got its pid since, a new postmaster would think that the old one is
        alive.
        """

    def close(self) -> None:
        """End every server and remove every file; programs that run meanwhile fail."""
