"""A container of the official image as the machine that the servers of a cluster run on.

As on loopback, all nodes run on one machine, here the container, and differ by port. A node does
the same to its server as there; the commands only go through the Docker engine.
"""
# ruff: noqa: D102 - the methods are documented in the protocols of _machine

import shlex
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hasql.testing.errors import ClusterError

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

__all__ = ("DockerMachine",)

_NEWEST = 18

# Signals a postmaster and its children. The postmaster is stopped first, so that it cannot fork
# while its children are listed.
_SIGNAL_ALL = "kill -STOP {pid}; kill -{name} {pid} $(cat /proc/{pid}/task/{pid}/children)"


class ContainerProcess:
    """A postmaster in the container, known by the process id in its lock file."""

    def __init__(self, machine: "DockerMachine", pid: int) -> None:
        self._machine = machine
        self.pid = pid
        self._killed = False

    def alive(self) -> bool:
        return not self._killed and self._exists()

    def _exists(self) -> bool:
        # A zombie has no command line.
        return bool(self._machine.read(f"/proc/{self.pid}/cmdline"))

    def stopped(self) -> bool:
        return False  # not needed: every query opens a new session, which then gets no answer

    def signal(self, number: signal.Signals) -> None:
        self._machine.shell(f"kill -{number.name.removeprefix('SIG')} {self.pid}")

    def freeze(self) -> None:
        self._machine.shell(_SIGNAL_ALL.format(name="STOP", pid=self.pid))

    def thaw(self) -> None:
        self._machine.shell(_SIGNAL_ALL.format(name="CONT", pid=self.pid))

    def kill(self) -> None:
        self._machine.shell(_SIGNAL_ALL.format(name="KILL", pid=self.pid))
        self._killed = True

    def wait(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        while self._exists():
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True


class DockerMachine:
    """A container, with the ports of all nodes published on loopback."""

    def __init__(self, version: int | None, ports: list[int]) -> None:
        major = version or _NEWEST
        self.root = "/var/lib/postgresql/hasql"
        self.bindir = f"/usr/lib/postgresql/{major}/bin"
        self.version = f"{major} (docker)"
        self.listen = "0.0.0.0"  # noqa: S104 - of the container; published on loopback only
        self.clients = "all"
        self._shared = tempfile.TemporaryDirectory(prefix="hasql-")
        self._container = _start_container(f"postgres:{major}", ports)
        try:
            self.make_directory(self.root)
        except BaseException:
            self.close()
            raise

    def run(self, *command: str, stdin: str = "", timeout: float = 60.0) -> str:
        quoted = shlex.join(["timeout", f"{timeout:g}", *command])
        return self.shell(f"printf %s {shlex.quote(stdin)} | {quoted}")

    def shell(self, script: str) -> str:
        """Run a script as the servers' account and return what it printed."""
        try:
            code, output = self._container.get_wrapped_container().exec_run(
                ["/bin/sh", "-c", script], user="postgres"
            )
        except Exception as error:  # docker's own errors, and those of its HTTP library
            raise ClusterError(f"the container does not answer: {error}") from error
        text = str((output or b"").decode(errors="replace"))
        if code:
            raise ClusterError(f"in the container, exit code {code}: {text.strip()[-2000:]}")
        return text

    def launch(self, *command: str, data: str, log: str) -> ContainerProcess:
        self.shell(f"setsid {shlex.join(command)} </dev/null >>{shlex.quote(log)} 2>&1 &")
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if lines := (self.read(f"{data}/postmaster.pid") or "").splitlines():
                return ContainerProcess(self, int(lines[0]))
            time.sleep(0.02)
        said = (self.read(log) or "")[-1500:].strip()
        raise ClusterError(f"the server does not start; its log ends: {said}")

    def read(self, path: str) -> str | None:
        try:
            return self.shell(f"cat {shlex.quote(path)} 2>/dev/null")
        except ClusterError:
            return None

    def write(self, path: str, text: str) -> None:
        self.shell(f"umask 077; printf %s {shlex.quote(text)} >{shlex.quote(path)}")

    def share(self, name: str, text: str) -> str:
        path = Path(self._shared.name) / name
        path.write_text(text)
        return str(path)

    def make_directory(self, path: str) -> None:
        self.shell(f"mkdir -m 700 {shlex.quote(path)}")

    def query(self, port: int, sql: str, timeout: float) -> str:
        psql = ["psql", "-XAtq", "-h", f"{self.root}/run", "-p", str(port), "-U", "postgres"]
        return self.run(*psql, "-d", "app", "-c", sql, timeout=timeout).removesuffix("\n")

    def look(self, port: int, sql: str, timeout: float) -> str:
        return self.query(port, sql, timeout)

    def keeps_session(self, port: int) -> bool:
        del port
        return False

    def end_session(self, port: int) -> None:
        del port

    def forget(self, data: str) -> None:
        # The memory segment disappears with the container.
        self.shell(f"rm -f {shlex.quote(data)}/postmaster.pid")

    def forget_socket(self, port: int) -> None:
        self.shell(f"rm -f {shlex.quote(self.root)}/run/.s.PGSQL.{port}.lock")

    def close(self) -> None:
        try:
            self._container.stop()
        finally:
            self._shared.cleanup()


def _start_container(image: str, ports: list[int]) -> "DockerContainer":
    try:
        from testcontainers.core.container import DockerContainer
    except ImportError as error:
        raise ClusterError(
            "servers in Docker need testcontainers: pip install 'hasql[testing]'"
        ) from error
    try:
        container = DockerContainer(image).with_kwargs(
            entrypoint=["sleep", "infinity"],
            init=True,  # reaps killed servers, whose parent is gone
        )
        for port in ports:
            # The port is the same inside, so that replicas and clients use the same address.
            container.ports[f"{port}/tcp"] = ("127.0.0.1", port)  # type: ignore[assignment]
        return container.start()
    except Exception as error:  # docker, requests or testcontainers raise all kinds if none runs
        raise ClusterError(
            f"no container of {image} can be started: {error}; is a Docker engine running?"
        ) from error
