"""The names by which the demo's application connects to its hosts, and their addresses."""

import socket
import time
from collections.abc import Sequence
from typing import Self

from hasql.cli.nameserver import NameServer
from hasql.cli.report import NameMove
from hasql.cluster.dsn import Dsn
from hasql.dns import Resolver
from hasql.errors import ConfigurationError
from hasql.testing import LocalNode

__all__ = ("HostNames",)

_TTL = 1
"""Seconds for which a client may cache an answer."""


class HostNames:
    """A name for each server, and the nameserver that resolves them; use it in ``async with``.

    Inside, the first server, the master, also listens at a second address.

    Raises ConfigurationError if this machine does not have that address, or if the servers run in a
    container.
    """

    #: The address that the master's name moves to. On Linux this machine has all of 127.0.0.0/8.
    elsewhere = "127.0.0.2"

    def __init__(self, nodes: Sequence[LocalNode]) -> None:
        _check(self.elsewhere)
        self._nodes = nodes
        self.nameserver = NameServer(_TTL)
        self.nameserver.records = {self.name(node): node.host for node in nodes}
        #: The move of the master's name, once that has happened.
        self.move: NameMove | None = None

    async def __aenter__(self) -> Self:
        master = self._nodes[0]
        if await master.sql("SHOW listen_addresses") != master.host:
            raise ConfigurationError(
                "--fault dns needs servers that run on this machine itself, not in a container: "
                "pip install 'hasql[cli]' brings some"
            )
        await master.sql(f"ALTER SYSTEM SET listen_addresses = '{master.host},{self.elsewhere}'")
        await master.restart()
        await self.nameserver.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.nameserver.stop()

    @property
    def resolver(self) -> Resolver:
        """A resolver that asks this nameserver, and no other."""
        return Resolver(nameservers=[self.nameserver.address], fallback=False)

    @staticmethod
    def name(node: LocalNode) -> str:
        """Return the name of a server."""
        return f"{node.name}.demo.test"

    def dsn(self, dsn: str) -> str:
        """Return the DSN with names instead of the hosts' addresses."""
        login = Dsn.parse(dsn)
        hosts = ",".join(f"{self.name(node)}:{node.port}" for node in self._nodes)
        return f"postgresql://{login.user}:{login.password}@{hosts}/{login.dbname}"

    def move_master(self) -> None:
        """Change the address of the master's name to its other address."""
        master = self._nodes[0]
        name = self.name(master)
        self.move = NameMove(name, master.host, self.elsewhere, _TTL, time.monotonic())
        self.nameserver.records[name] = self.elsewhere


def _check(address: str) -> None:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise ConfigurationError(
                f"--fault dns moves a name to {address}, which this machine does not have: "
                f"{error}; on macOS `sudo ifconfig lo0 alias {address}` adds it"
            ) from error
