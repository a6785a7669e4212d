"""One server of a test cluster."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from typing import Literal

from hasql.errors import ConfigurationError
from hasql.testing import _status
from hasql.testing._data_directory import DataDirectory, Passwords, quoted
from hasql.testing._machine import Machine, Process
from hasql.testing._status import NodeStatus
from hasql.testing.errors import ClusterError

__all__ = ("LocalNode",)

_TIMEOUT = 60.0
"""Seconds that a start, a stop or a promotion may take."""

_STREAMING_TIMEOUT = 5.0
"""Seconds after which a replica that does not stream is assumed to be unable to."""

_POLL = 0.005
"""Seconds between two queries to a server whose state is changing."""

_STOP_SIGNALS = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}


class LocalNode:
    """One PostgreSQL server: stop it, kill it, freeze it, promote it, bring it back.

    Methods that take time are coroutines; their work runs to its end in a thread even if they are
    cancelled. Methods that must act at a known moment (`kill`, `freeze`, `thaw`,
    `request_promotion`) are plain. All raise `ClusterError` if the server is in the wrong state.
    """

    def __init__(
        self,
        machine: Machine,
        name: str,
        port: int,
        passwords: Passwords,
        parameters: str = "",
    ) -> None:
        self.name = name
        self.host = "127.0.0.1"
        self.port = port
        self._passwords = passwords
        self._parameters = parameters
        self._machine = machine
        self._data = DataDirectory(machine, name)
        self._process: Process | None = None
        self._frozen = False
        self._promotions = 0
        self._promoting = False
        self._stopping = False
        # One operation at a time, except for the plain methods, which must act at once.
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        state = "frozen" if self._frozen else "running" if self.running else "stopped"
        return f"<LocalNode {self.name} {self.host}:{self.port} {state}>"

    @property
    def dsn(self) -> str:
        """The DSN of this server alone, for the application's role in its database ``app``."""
        return self._dsn("app", self._passwords.app)

    @property
    def superuser_dsn(self) -> str:
        """The DSN of this server alone, for the superuser in the application's database."""
        return self._dsn("postgres", self._passwords.superuser)

    @property
    def running(self) -> bool:
        """Whether the server's process exists; True for a frozen server, too."""
        return self._process is not None and self._process.alive()

    @property
    def frozen(self) -> bool:
        """Whether the server was frozen and has not been thawed since."""
        return self._frozen and self.running

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, or None if it does not run."""
        process = self._process
        return process.pid if process is not None and process.alive() else None

    async def start(self) -> None:
        """Start the server and wait until it accepts connections.

        It starts in the role that it had: a killed master starts as a master even if another node
        has been promoted since; `rejoin` brings it back as a replica.
        """
        await asyncio.to_thread(self._start)

    async def stop(self, mode: Literal["fast", "smart", "immediate"] = "fast") -> None:
        """Shut the server down and wait until it is gone; a frozen server is thawed for that.

        The modes are those of pg_ctl: https://www.postgresql.org/docs/current/app-pg-ctl.html
        """
        await asyncio.to_thread(self._stop, mode)

    async def restart(self) -> None:
        """Stop the server (fast) and start it again."""
        await asyncio.to_thread(self._restart)

    def kill(self) -> None:
        """Kill the server and its children at once (SIGKILL), frozen or not, like a crash."""
        self._running_process().kill()
        self._frozen = False

    def freeze(self) -> None:
        """Stop the server and its children at once (SIGSTOP): connections stay open, but silent.

        The kernel goes on accepting connections for the server, up to its backlog.
        """
        self._running_process().freeze()
        self._frozen = True

    def thaw(self) -> None:
        """Let a frozen server go on (SIGCONT); this has no effect on one that is not frozen."""
        self._running_process().thaw()
        self._frozen = False

    async def promote(self) -> None:
        """Make the replica a master; return once it accepts writes."""
        await asyncio.to_thread(self._promote)

    def request_promotion(self) -> None:
        """Ask the replica to become a master and return at once; a master ignores the request."""
        process = self._running_process()
        self._promoting = True
        self._data.ask_for_promotion()
        process.signal(signal.SIGUSR1)
        self._promotions = time.monotonic_ns()

    async def rejoin(self, master: "LocalNode") -> None:
        """Make this node a streaming replica of `master`; return once it streams.

        The node may be in any state: a running master, a replica, stopped, killed or frozen. What
        it has written and `master` does not have is lost: pg_rewind removes it, or, if pg_rewind
        cannot, a new base backup replaces the data.
        """
        await asyncio.to_thread(self._rejoin, master)

    async def follow(self, master: "LocalNode") -> None:
        """Make a running replica stream from `master`, without a restart.

        This fails if the replica has replayed WAL that `master` never had; use `rejoin` then.
        """
        await asyncio.to_thread(self._follow, master)

    async def pause_replay(self) -> None:
        """Make the replica receive, but not replay, WAL; return once the replay is paused.

        https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-RECOVERY-CONTROL
        """
        await asyncio.to_thread(self._pause_replay)

    async def resume_replay(self) -> None:
        """Let the replica replay again."""
        await self.sql("SELECT pg_wal_replay_resume()")

    async def sql(self, query: str) -> str:
        """Run `query` as superuser in the application's database and return its rows.

        :returns: a line for each row, with columns separated by ``|`` and null as empty text
        :raises ClusterError: if the server refuses the query (with the SQLSTATE), does not run, or
            does not answer within 60 s
        """
        return await asyncio.to_thread(self._sql, query)

    # The synchronous core follows; LocalCluster uses it, too.

    def _dsn(self, user: str, password: str) -> str:
        return f"postgresql://{user}:{password}@{self.host}:{self.port}/app{self._parameters}"

    def _conninfo(self) -> str:
        return f"host={self._machine.root}/run port={self.port} user=postgres"

    def _running_process(self) -> Process:
        process = self._process
        if process is None or not process.alive():
            raise ClusterError(f"{self.name} is not running; start() or rejoin() starts it")
        return process

    def _sql(self, query: str, timeout: float = _TIMEOUT) -> str:
        self._answering_process()
        return self._machine.query(self.port, query, timeout)

    def _answering_process(self) -> Process:
        process = self._running_process()
        if self._frozen:
            raise ClusterError(f"{self.name} is frozen and cannot answer; thaw() lets it go on")
        return process

    def _look(self, query: str, timeout: float = _TIMEOUT) -> str:
        """Run `query`, which only reads, in the session that is kept for that.

        If the server would accept no new session, the kept one must not answer either, so it is
        ended: the children of a stopped postmaster go on, and a shutdown waits for sessions.
        """
        process = self._answering_process()
        if self._machine.keeps_session(self.port) and (
            process.stopped() or not self._data.is_ready
        ):
            self._machine.end_session(self.port)
        try:
            return self._machine.look(self.port, query, timeout)
        finally:
            if self._stopping:  # stop() began meanwhile, or its signal had not arrived yet
                self._machine.end_session(self.port)

    def _status(self, timeout: float = _TIMEOUT) -> NodeStatus:
        return NodeStatus.parse(self._look(_status.QUERY, timeout))

    def _until(self, done: Callable[[], bool], timeout: float, goal: str) -> None:
        until = time.monotonic() + timeout
        while not done():
            if time.monotonic() > until:
                raise ClusterError(
                    f"{self.name} did not {goal} within {timeout:g} s; its log ends: {self._log()}"
                )
            time.sleep(_POLL)

    def _log(self) -> str:
        return (self._machine.read(f"{self._machine.root}/{self.name}.log") or "")[-1500:].strip()

    def _start(self, timeout: float = _TIMEOUT) -> None:
        with self._lock:
            if self.running:
                raise ClusterError(f"{self.name} is running already; restart() restarts it")
            self._await_end()
            self._machine.forget(self._data.path)
            self._machine.forget_socket(self.port)
            # Passed as arguments, because pg_rewind and base backups copy configuration files.
            process = self._machine.launch(
                f"{self._machine.bindir}/postgres",
                *("-D", self._data.path, "-c", f"port={self.port}"),
                *("-c", f"cluster_name={self.name}"),
                data=self._data.path,
                log=f"{self._machine.root}/{self.name}.log",
            )
            # A server that starts anew has forgotten any request to promote it.
            self._process = process
            self._frozen = self._promoting = self._stopping = False
            try:
                self._until(lambda: self._is_up(process), timeout, "accept connections")
            except ClusterError:
                process.kill()
                raise

    def _is_up(self, process: Process) -> bool:
        if not process.alive():
            raise ClusterError(f"{self.name} does not start; its log ends: {self._log()}")
        return self._data.is_ready

    def _await_end(self) -> None:
        """Wait until nothing is left of a killed process: leftovers would make a start fail."""
        if self._process is not None and not self._process.wait(10):
            raise ClusterError(f"processes of {self.name} do not end")

    def _stop(self, mode: str) -> None:
        if mode not in _STOP_SIGNALS:
            raise ConfigurationError(f"no such mode {mode!r}: use {', '.join(_STOP_SIGNALS)}")
        with self._lock:
            process = self._running_process()
            self._stopping = True
            self._machine.end_session(self.port)
            process.signal(_STOP_SIGNALS[mode])
            process.thaw()
            self._frozen = False
            if not process.wait(_TIMEOUT):
                raise ClusterError(
                    f"{self.name} did not stop within {_TIMEOUT:g} s; 'immediate' does not wait "
                    "for clients and replicas, kill() waits for nothing"
                )

    def _restart(self) -> None:
        with self._lock:
            self._stop("fast")
            self._start()

    def _promote(self) -> None:
        with self._lock:
            if not self._status().in_recovery:
                raise ClusterError(f"{self.name} is a master already")
            self.request_promotion()
            self._await_promotion()

    def _await_promotion(self) -> None:
        """Wait until a requested promotion, if there is one, is complete."""
        if self._promoting:
            self._until(
                lambda: self._look("SELECT pg_is_in_recovery()") == "f",
                _TIMEOUT,
                "become a master",
            )
            self._promoting = False

    def _pause_replay(self) -> None:
        self._sql("SELECT pg_wal_replay_pause()")
        self._until(
            lambda: self._look("SELECT pg_get_wal_replay_pause_state()") == "paused",
            _STREAMING_TIMEOUT,
            "pause",
        )

    def _check_master(self, master: "LocalNode") -> None:
        if master is self:
            raise ConfigurationError(f"{self.name} cannot replicate from itself")
        if master._machine is not self._machine:  # noqa: SLF001 - of its own class
            raise ConfigurationError(f"{master.name} belongs to another cluster")
        if master._status().in_recovery:  # noqa: SLF001 - of its own class
            raise ClusterError(f"{master.name} is not a master; promote() makes it one")

    def _streams_from(self, master: "LocalNode") -> bool:
        status = master._status()  # noqa: SLF001 - of its own class
        # Ask the master as well: until it says so, the replica is still catching up.
        return (
            self.name in status.standbys
            and self.running
            and self._status().streams(master.port, status.timeline)
        )

    def _await_streaming(self, master: "LocalNode", timeout: float) -> None:
        goal = f"stream from {master.name}"
        self._until(lambda: self._streams_from(master), timeout, goal)

    def _follow(self, master: "LocalNode", timeout: float = _STREAMING_TIMEOUT) -> None:
        with self._lock:
            if not self._status().in_recovery:
                raise ClusterError(f"{self.name} is a master; rejoin() makes it a replica")
            self._check_master(master)
            conninfo = quoted(master._conninfo())  # noqa: SLF001
            self._sql(f"ALTER SYSTEM SET primary_conninfo = {conninfo}")
            self._sql("SELECT pg_reload_conf()")
            self._await_streaming(master, timeout)

    def _start_following(self, master: "LocalNode") -> None:
        self._data.follow(master._conninfo())  # noqa: SLF001
        self._start(_STREAMING_TIMEOUT)
        self._await_streaming(master, _STREAMING_TIMEOUT)

    def _rejoin(self, master: "LocalNode") -> None:
        with self._lock:
            self._check_master(master)
            self._end()
            try:
                self._rewind_or_continue(master)
            except ClusterError:
                # pg_rewind cannot do it, or it left the data unusable.
                if self.running:
                    self.kill()
                self._await_end()
                self._data.back_up(master._conninfo())  # noqa: SLF001
                self._start_following(master)

    def _end(self) -> None:
        """Stop a server that will be started again, by a clean shutdown if that is possible."""
        if self.running and not self._frozen:
            try:
                self._stop("fast")
            except ClusterError:
                self.kill()
        elif self.running:
            # Kill it instead of thawing it: a deposed master would accept writes for a moment.
            self.kill()
        self._await_end()

    def _rewind_or_continue(self, master: "LocalNode") -> None:
        if self._data.is_replica and not self._data.was_shut_down:
            # pg_rewind cannot recover a crashed replica, but the replica may just be able to go on.
            try:
                self._start_following(master)
            except ClusterError:
                self._stop("fast")
            else:
                return
        elif not self._data.is_replica and self._data.timeline == master._status().timeline:  # noqa: SLF001
            # pg_rewind assumes that a timeline has one history; here one number has two.
            raise ClusterError(f"{self.name} and {master.name} were promoted to the same timeline")
        # Until its first checkpoint a new master's control file names the old timeline, and older
        # versions of pg_rewind would see no difference and do nothing.
        master._sql("CHECKPOINT")  # noqa: SLF001
        self._data.rewind(master._conninfo())  # noqa: SLF001
        self._start_following(master)
