"""Three Patroni members with their etcd on loopback: the real HA manager, for tests that need it.

Nothing is installed here: `make venv-patroni` makes an environment with both programs. PostgreSQL
comes from `hasql.testing`, which also removes the files and ends the servers, even if this process
is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from hasql.testing import ClusterError
from hasql.testing._account import Account
from hasql.testing._data_directory import Passwords
from hasql.testing._local_machine import LocalMachine
from hasql.testing._ports import free_ports
from hasql.testing._watchdog import process_table
from hasql.testing.binaries import Binaries, find_local, find_wheel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from types import TracebackType

__all__ = ("Member", "PatroniCluster", "PatroniUnavailableError", "Programs")

_ENVIRONMENTS = (f"{sys.prefix}-patroni", str(Path(__file__).parents[1] / ".venv-patroni"))
"""Where make installs Patroni and etcd: beside the running environment, and its default place."""

_SCOPE = "hasql"
"""The name of the cluster."""

_SERVER_PROGRAMS = ("pg_ctl", "pg_isready", "psql")
"""The programs that Patroni and this module need besides those of every LocalCluster."""

_SERVER_SETTINGS = {
    "fsync": "off",  # nothing here has to survive a power cut
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",  # kept small because the data may be in memory
    "wal_keep_size": "128MB",
    "wal_retrieve_retry_interval": "100ms",
    # Files below the data directory; shared memory in /dev/shm would outlive a SIGKILL.
    "dynamic_shared_memory_type": "mmap",
}

_SHARED = {
    # The smallest value that Patroni accepts.
    "ttl": 20,
    "loop_wait": 1,
    "retry_timeout": 3,
    # An acknowledged commit is on a second server, and only that server may take over.
    "synchronous_mode": True,
    "postgresql": {"use_pg_rewind": True, "parameters": _SERVER_SETTINGS},
}

_PATIENCE = 40.0
"""Seconds that members may take to form a cluster; longer than a leader's lock lasts."""

_POLL = 0.02
"""Seconds between two requests to Patroni or etcd."""


class PatroniUnavailableError(Exception):
    """Patroni cannot run on this machine; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs that make up a cluster, and the account that they run under."""

    etcd: str
    patroni: str
    setpriv: str
    binaries: Binaries
    account: Account

    @classmethod
    def find(cls) -> Programs:
        """Find the programs on the PATH and in the environment that make makes.

        :raises PatroniUnavailableError: if a program is missing or does not start
        """
        path = os.pathsep.join([os.environ["PATH"], *(f"{each}/bin" for each in _ENVIRONMENTS)])
        found = {}
        for name in ("etcd", "patroni", "setpriv"):
            place = shutil.which(name, path=path)
            if place is None:
                raise PatroniUnavailableError(
                    f"no program {name!r}: `make venv-patroni` installs Patroni and etcd; "
                    "setpriv is part of Linux's util-linux"
                )
            found[name] = place
        try:
            account = Account.for_servers()
            servers = [find(None, account) for find in (find_wheel, find_local)]
        except ClusterError as error:
            raise PatroniUnavailableError(str(error)) from error
        whole = [each for each in servers if each is not None and _is_whole(each.bindir)]
        if not whole:
            raise PatroniUnavailableError("no PostgreSQL server with all of its programs")
        programs = cls(**found, binaries=whole[0], account=account)
        for program in (programs.etcd, programs.patroni):
            programs.check(program)
        return programs

    def check(self, program: str) -> None:
        """Check that a program starts under the account that will run it."""
        done = subprocess.run(
            [*self.prefix, program, "--version"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PatroniUnavailableError(f"{program} does not start: {done.stderr.strip()[-500:]}")

    @property
    def prefix(self) -> list[str]:
        """Return the prefix of a command that makes it end with this process, and not run as root.

        The Python of a virtual environment is often in a directory that only root may read, so the
        account keeps the capability to read everything.
        """
        prefix = [self.setpriv, "--pdeathsig=KILL"]
        if self.account.uid is not None:
            prefix += [f"--reuid={self.account.uid}", f"--regid={self.account.gid}"]
            prefix += ["--clear-groups", "--inh-caps=+dac_read_search"]
            prefix += ["--ambient-caps=+dac_read_search"]
        return prefix


def _is_whole(bindir: Path) -> bool:
    return all((bindir / program).exists() for program in _SERVER_PROGRAMS)


class _Site:
    """The directories, passwords and background programs of a cluster."""

    def __init__(self, programs: Programs) -> None:
        self.machine = LocalMachine(programs.binaries, programs.account)
        self.root = self.machine.root
        self.passwords = Passwords(secrets.token_hex(16), secrets.token_hex(16))
        self._programs = programs
        self.machine.make_directory(f"{self.root}/run")

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a program. Call this in the main thread: the program ends when that thread ends."""
        with Path(f"{self.root}/{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*self._programs.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.root,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": self.root},
                start_new_session=True,
                umask=0o077,
            )

    def log(self, name: str) -> str:
        return (self.machine.read(f"{self.root}/{name}.log") or "")[-3000:].strip()


class Member:
    """A member of the cluster: Patroni, and the PostgreSQL server that it runs."""

    def __init__(self, site: _Site, program: str, name: str, port: int, api_port: int) -> None:
        self.name = name
        self.host = "127.0.0.1"
        self.port = port
        self.api_port = api_port
        self.home = f"{site.root}/{name}"
        self._site = site
        self._program = program
        self._patroni: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Member {self.name} {self.host}:{self.port}>"

    @property
    def superuser_dsn(self) -> str:
        """The DSN of this server alone, for the superuser in the application's database."""
        password = self._site.passwords.superuser
        return f"postgresql://postgres:{password}@{self.host}:{self.port}/app"

    @property
    def running(self) -> bool:
        """Whether Patroni runs."""
        return self._patroni is not None and self._patroni.poll() is None

    def start(self) -> None:
        """Start Patroni, which then starts its server. Call this in the main thread."""
        self._patroni = self._site.start(self.name, self._program, f"{self.home}/patroni.json")

    def kill(self) -> None:
        """Kill Patroni and its server at once, as if the machine were lost."""
        self.kill_patroni()
        self.kill_server()

    def kill_patroni(self) -> None:
        """Kill Patroni alone; its server goes on."""
        if self._patroni is not None:
            self._patroni.kill()
            self._patroni.wait()

    def kill_server(self) -> None:
        """Kill the server and its children at once."""
        postmaster = self._postmaster()
        # Stop it first: otherwise it could fork a child that the list misses.
        os.kill(postmaster, signal.SIGSTOP)
        children = [process.pid for process in process_table() if process.parent == postmaster]
        for pid in (postmaster, *children):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _postmaster(self) -> int:
        text = self._site.machine.read(f"{self.home}/data/postmaster.pid")
        if text is None:
            raise ClusterError(f"the server of {self.name} does not run")
        return int(text.split()[0])

    def sql(self, query: str) -> str:
        """Run `query` as superuser in the application's database and return its rows."""
        return self._site.machine.query(self.port, query, 10.0)

    def ask(self, method: str, path: str, body: object = None, timeout: float = 5.0) -> Any:
        """Send a request to Patroni's REST API and return the content of its answer.

        :raises OSError: if Patroni does not answer
        :raises ClusterError: if Patroni refuses the request
        """
        connection = HTTPConnection(self.host, self.api_port, timeout=timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
        except HTTPException as error:
            raise ConnectionError(f"{self.name} did not answer") from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise ClusterError(f"{self.name}: {method} {path}: {answer.status} {text}")
        return json.loads(text) if text.startswith(("{", "[")) else text


class PatroniCluster:
    """A leader, a synchronous standby and a replica; use it in ``with``, in the main thread."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._site = _Site(programs)
        self._processes: list[subprocess.Popen[bytes]] = []
        client, peer, *ports = free_ports(8)
        self._etcd = (client, peer)
        self.members = tuple(
            Member(self._site, programs.patroni, f"p{i + 1}", ports[i], ports[3 + i])
            for i in range(3)
        )

    def __enter__(self) -> Self:
        try:
            self._start_etcd()
            for member in self.members:
                self._site.machine.make_directory(member.home)
                self._configure(member)
                member.start()
            self._await(lambda: self.leader is not None, "elect a leader")
            self._create_database()
            self._await(lambda: self.whole, "form a cluster")
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
        """End everything and remove every file."""
        # Kill Patroni first: otherwise it would restart the servers that are ended below.
        for member in self.members:
            member.kill_patroni()
        for process in self._processes:
            process.kill()
            process.wait()
        self._site.machine.close()

    @property
    def dsn(self) -> str:
        """The DSN of all servers, for the application's role in the application's database."""
        hosts = ",".join(f"{member.host}:{member.port}" for member in self.members)
        return f"postgresql://app:{self._site.passwords.app}@{hosts}/app"

    @property
    def hostless_dsn(self) -> str:
        """The same DSN without hosts, for managers that discover them."""
        return f"postgresql://app:{self._site.passwords.app}@/app"

    @property
    def api_urls(self) -> list[str]:
        """The URLs of the members' REST APIs."""
        return [f"http://{member.host}:{member.api_port}" for member in self.members]

    @property
    def leader(self) -> Member | None:
        """The member that Patroni calls the leader; None if there is none, or no answer."""
        return self._of("leader")

    @property
    def standby(self) -> Member | None:
        """The synchronous standby, which would take over from the leader."""
        return self._of("sync_standby")

    @property
    def whole(self) -> bool:
        """Whether there are a leader, a synchronous standby, and a replica that streams."""
        view = self._view()
        roles = sorted(each["role"] for each in view)
        states = sorted(each["state"] for each in view)
        return (roles, states) == (
            ["leader", "replica", "sync_standby"],
            ["running", "streaming", "streaming"],
        )

    async def heal(self) -> None:
        """Start what was killed and wait until the cluster is whole."""
        for member in self.members:
            if not member.running:
                member.start()
        await asyncio.to_thread(self._await, lambda: self.whole, "become whole again")

    def switch_over(self, old: Member, new: Member) -> None:
        """Make the synchronous standby take over from the leader; return some time after that.

        ``patronictl switchover`` does the same:
        https://patroni.readthedocs.io/en/latest/rest_api.html
        """
        old.ask("POST", "/switchover", {"leader": old.name, "candidate": new.name}, _PATIENCE)

    def schedule_switch_over(self, at: datetime) -> None:
        """Schedule a switchover to the standby; `forget_switch_over` can cancel it."""
        leader, standby = self.leader, self.standby
        assert leader is not None
        assert standby is not None
        names = {"leader": leader.name, "candidate": standby.name}
        leader.ask("POST", "/switchover", {**names, "scheduled_at": at.isoformat()})

    def forget_switch_over(self) -> None:
        """Cancel a scheduled switchover."""
        assert self.leader is not None
        self.leader.ask("DELETE", "/switchover")

    def take_out(self, member: Member) -> None:
        """Take a member out of the cluster, but leave its server running; `heal` takes it in again.

        The member's key in etcd is deleted; by itself it would expire only after the time that a
        leader's lock lasts.
        """
        member.kill_patroni()
        key = b64encode(f"/service/{_SCOPE}/members/{member.name}".encode()).decode()
        connection = HTTPConnection("127.0.0.1", self._etcd[0], timeout=5.0)
        try:
            connection.request("POST", "/v3/kv/deleterange", json.dumps({"key": key}))
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if answer.get("deleted") != "1":
            raise ClusterError(f"etcd knows no member {member.name}: {answer}")

    def tag(self, member: Member, **tags: object) -> None:
        """Give a member these tags, and no others; return once all members know them."""
        self._configure(member, tags)
        member.ask("POST", "/reload")
        self._await(lambda: self._tags(member) == tags, f"tag {member.name}")

    def _tags(self, member: Member) -> object:
        of_name = {each["name"]: each.get("tags", {}) for each in self._view()}
        return of_name.get(member.name)

    def change(self, settings: dict[str, object]) -> None:
        """Change settings of Patroni that the members share."""
        for member in self.members:
            if member.running:
                member.ask("PATCH", "/config", settings)
                return

    def _of(self, role: str) -> Member | None:
        up = [each for each in self._view() if each["state"] in {"running", "streaming"}]
        named = [each["name"] for each in up if each["role"] == role]
        return next((member for member in self.members if [member.name] == named), None)

    def _view(self) -> list[dict[str, Any]]:
        for member in self.members:
            if member.running:
                with suppress(OSError, ClusterError):
                    view: list[dict[str, Any]] = member.ask("GET", "/cluster")["members"]
                    return view
        return []

    def _await(self, holds: Callable[[], bool], goal: str) -> None:
        until = time.monotonic() + _PATIENCE
        while not holds():
            if time.monotonic() > until:
                logs = "\n".join(
                    f"{each.name}: {self._site.log(each.name)}" for each in self.members
                )
                raise ClusterError(f"Patroni did not {goal} within {_PATIENCE:g} s\n{logs}")
            time.sleep(_POLL)

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in self._etcd)
        self._site.machine.make_directory(f"{self._site.root}/etcd")
        process = self._site.start(
            "etcd",
            self._programs.etcd,
            f"--data-dir={self._site.root}/etcd/data",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )
        self._processes.append(process)

    def _configure(self, member: Member, tags: Mapping[str, object] = MappingProxyType({})) -> None:
        configuration = {**self._configuration(member), "tags": dict(tags)}
        self._site.machine.write(f"{member.home}/patroni.json", json.dumps(configuration))

    def _configuration(self, member: Member) -> dict[str, object]:
        passwords = self._site.passwords
        superuser = {"username": "postgres", "password": passwords.superuser}
        address = f"{member.host}:{member.port}"
        api = f"{member.host}:{member.api_port}"
        return {
            "scope": _SCOPE,
            "name": member.name,
            "etcd3": {"host": f"127.0.0.1:{self._etcd[0]}"},
            "restapi": {"listen": api, "connect_address": api},
            "bootstrap": {
                "dcs": _SHARED,
                "initdb": ["data-checksums", "no-sync", {"encoding": "UTF8"}, {"locale": "C"}],
            },
            "postgresql": {
                "listen": address,
                "connect_address": address,
                "data_dir": f"{member.home}/data",
                "bin_dir": self._site.machine.bindir,
                "pgpass": f"{member.home}/pgpass",
                "use_unix_socket": True,
                "authentication": {"superuser": superuser, "replication": superuser},
                "parameters": {"unix_socket_directories": f"{self._site.root}/run"},
                "pg_hba": [
                    "local all,replication postgres trust",
                    "host all,replication all 127.0.0.1/32 scram-sha-256",
                ],
                "basebackup": [{"checkpoint": "fast"}, "no-sync"],
            },
        }

    def _create_database(self) -> None:
        app, leader = self._site.passwords.app, self.leader
        assert leader is not None
        self._site.machine.run(
            f"{self._site.machine.bindir}/psql",
            *("-h", f"{self._site.root}/run", "-p", str(leader.port), "-U", "postgres"),
            *("-v", "ON_ERROR_STOP=1", "postgres"),
            stdin=f"CREATE ROLE app LOGIN PASSWORD '{app}'; CREATE DATABASE app OWNER app;",
        )
