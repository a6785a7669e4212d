"""The data directory of a server: creates, configures, copies and rewinds it."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from hasql.testing._machine import Machine
from hasql.testing.binaries import major_of
from hasql.testing.errors import ClusterError

__all__ = ("DataDirectory", "Passwords")

_TAKES_SETTINGS = 16
"""The first major version of PostgreSQL whose initdb accepts settings."""

_SIDES = "Client", "Server"

_SETTINGS = {
    "wal_level": "replica",
    "hot_standby": "on",
    "wal_log_hints": "on",  # pg_rewind needs this setting, or data checksums
    "fsync": "off",  # nothing here has to survive a power cut
    "max_connections": "100",
    "max_wal_senders": "20",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",  # kept small because the data directory may be in memory
    "wal_keep_size": "128MB",  # so that a node that was away still finds the WAL it missed
    "recovery_target_timeline": "latest",
    # Replicas look for WAL again after 0.1 s instead of the default 5 s, and a dead connection is
    # noticed after 5 s instead of 60 s.
    "wal_retrieve_retry_interval": "100ms",
    "wal_receiver_status_interval": "1s",
    "wal_receiver_timeout": "5s",
    "wal_sender_timeout": "5s",
    # Files below the data directory; shared memory in /dev/shm would outlive a SIGKILL.
    "dynamic_shared_memory_type": "mmap",
    "log_line_prefix": "%m [%p] ",
    "jit": "off",
}


@dataclass(frozen=True, slots=True, repr=False)
class Passwords:
    """The random passwords of one cluster."""

    app: str
    superuser: str
    #: How many times a client hashes its password to log in.
    iterations: int = 4096

    def verifier(self, password: str) -> str:
        """Return the SCRAM verifier that a server stores for a password.

        It is computed here because the server's own setting `scram_iterations` exists only since
        PostgreSQL 16.
        https://www.postgresql.org/docs/current/catalog-pg-authid.html, RFC 5803
        """
        salt = secrets.token_bytes(16)
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, self.iterations)
        client, server = (hmac.digest(salted, f"{x} Key".encode(), "sha256") for x in _SIDES)
        stored = hashlib.sha256(client).digest()
        words = (base64.b64encode(each).decode() for each in (salt, stored, server))
        return "SCRAM-SHA-256${}:{}${}:{}".format(self.iterations, *words)


class DataDirectory:
    """The data of one server: the directory ``data`` inside a directory named after the server."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine = machine
        self._home = f"{machine.root}/{name}"
        self.path = f"{self._home}/data"

    def make_home(self) -> None:
        """Make the directory that will hold the data."""
        self._machine.make_directory(self._home)

    def initialize(
        self, passwords: Passwords, settings: Mapping[str, str], *, tls: bool = False
    ) -> None:
        """Make a new database cluster with the application's role and database.

        With `tls`, the server refuses clients that connect without TLS.
        """
        self._run(
            "initdb",
            f"--pgdata={self.path}",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            "--auth=reject",
            "--no-sync",
            "--no-instructions",
            # Each start and each promotion writes at least one segment, by default of 16 MB.
            "--wal-segsize=1",
            *_memory_in_files(self._machine.version),
        )
        machine = self._machine
        written = _SETTINGS | {
            "listen_addresses": machine.listen,
            "unix_socket_directories": f"{machine.root}/run",
            "password_encryption": "scram-sha-256",
            **settings,
        }
        lines = [f"{name} = {quoted(value)}\n" for name, value in written.items()]
        machine.write(f"{self.path}/postgresql.conf", "".join(lines))
        host = "hostssl" if tls else "host"
        # "trust" is safe: only the servers' account can enter the socket's directory.
        machine.write(
            f"{self.path}/pg_hba.conf",
            "local all,replication postgres trust\n"
            f"{host} all,replication postgres {machine.clients} scram-sha-256\n"
            f"{host} all all {machine.clients} scram-sha-256\n",
        )
        # Run before the server first starts: this costs a tenth of running it over a connection,
        # and the copies that become replicas contain it from the start.
        statements = (
            f"ALTER ROLE postgres PASSWORD {quoted(passwords.verifier(passwords.superuser))}",
            f"CREATE ROLE app LOGIN PASSWORD {quoted(passwords.verifier(passwords.app))}",
            "CREATE DATABASE app OWNER app",
        )
        self._single_user("\n".join(statements) + "\n")

    def _single_user(self, statements: str) -> None:
        # exit_on_error: a failed statement makes the program fail instead of only being logged.
        self._run(
            "postgres",
            "--single",
            "-F",
            "-c",
            "exit_on_error=on",
            "-c",
            "synchronous_standby_names=",
            "-D",
            self.path,
            "postgres",
            stdin=statements,
        )

    def copy_to(self, other: "DataDirectory") -> None:
        """Copy the data of a server that is shut down; this is far quicker than a base backup."""
        self._machine.run("/bin/cp", "-R", self.path, other.path)

    def back_up(self, conninfo: str) -> None:
        """Replace the data with a base backup of a running server."""
        # Free the old server's memory segment first: the file that names it is deleted below.
        self._machine.forget(self.path)
        self._machine.run("/bin/rm", "-rf", self.path)
        self._run(
            "pg_basebackup",
            f"--dbname={conninfo}",
            f"--pgdata={self.path}",
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-sync",
            timeout=300.0,
        )

    def rewind(self, conninfo: str) -> None:
        """Undo every change that the running server at `conninfo` does not have.

        The server of this data directory must be stopped.

        :raises ClusterError: if that is not possible; the data may be unusable afterwards
        """
        self._run(
            "pg_rewind",
            f"--target-pgdata={self.path}",
            f"--source-server={conninfo} dbname=postgres",
            "--no-sync",
            timeout=120.0,
        )

    def follow(self, conninfo: str) -> None:
        """Make a stopped server start as a replica of the server at `conninfo` from now on."""
        path = f"{self.path}/postgresql.auto.conf"
        kept = [
            line
            for line in (self._machine.read(path) or "").splitlines()
            if not line.startswith("primary_conninfo")
        ]
        kept.append(f"primary_conninfo = {quoted(conninfo)}")
        self._machine.write(path, "\n".join(kept) + "\n")
        self._machine.write(f"{self.path}/standby.signal", "")

    @property
    def is_replica(self) -> bool:
        """Whether the server is, or would start as, a replica."""
        return self._machine.read(f"{self.path}/standby.signal") is not None

    @property
    def timeline(self) -> int:
        """The newest timeline that the server knows of; on a master, the one that it writes."""
        names = self._machine.run("/bin/ls", f"{self.path}/pg_wal").split()
        histories = (name.partition(".history")[0] for name in names if name.endswith(".history"))
        return max([1, *(int(number, 16) for number in histories)])

    @property
    def was_shut_down(self) -> bool:
        """Whether the stopped server ended with a clean shutdown."""
        state = self._run("pg_controldata", self.path)
        return "shut down" in state.partition("Database cluster state:")[2].partition("\n")[0]

    @property
    def is_ready(self) -> bool:
        """Whether the server that was just started accepts connections."""
        lines = (self._machine.read(f"{self.path}/postmaster.pid") or "").splitlines()
        return len(lines) > 7 and lines[7].strip() == "ready"  # noqa: PLR2004 - its eighth line

    def ask_for_promotion(self) -> None:
        """Create the file that a postmaster looks for when it receives SIGUSR1."""
        self._machine.write(f"{self.path}/promote", "")

    def _run(self, program: str, *arguments: str, stdin: str = "", timeout: float = 60.0) -> str:
        command = f"{self._machine.bindir}/{program}"
        return self._machine.run(command, *arguments, stdin=stdin, timeout=timeout)


def quoted(value: str) -> str:
    r"""Quote a value for SQL or a configuration file.

    :raises ClusterError: if the value holds a line break, a backslash or a zero byte: SQL and the
        configuration file would read these differently
    """
    if any(sign in value for sign in "\n\r\0\\"):
        raise ClusterError(f"{value!r} holds a line break, a backslash or a zero byte")
    return "'" + value.replace("'", "''") + "'"


def _memory_in_files(version: str) -> tuple[str, ...]:
    """Return initdb's option to keep its shared memory in files below the data directory.

    The data directory is removed even if initdb is killed. Before PostgreSQL 16 initdb does not
    accept settings, so a killed initdb can leave two files of POSIX shared memory behind.
    """
    return (
        ("--set=dynamic_shared_memory_type=mmap",) if major_of(version) >= _TAKES_SETTINGS else ()
    )
