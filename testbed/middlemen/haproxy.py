"""HAProxy in front of a cluster: one address for the master, one for the replicas."""

from __future__ import annotations

import asyncio
import csv
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal, Self

from hasql.testing._ports import free_ports
from testbed.middlemen.addresses import Place
from testbed.middlemen.program import Program
from testbed.middlemen.roles import RoleAgent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hasql.testing import LocalNode

__all__ = ("HAProxy",)

_CHECKS = "inter 100ms fastinter 50ms downinter 50ms fall 1 rise 1"
"""The checks are frequent, so that tests are quick; the default is every 2 s, three times."""

_PATIENCE = 15.0
"""Seconds within which the health checks must have seen the state of the servers."""

_Way = Literal["rw", "r"]


class HAProxy(Program):
    """Leads to servers by the role that health checks find; use it in ``with``.

    The configuration is the one of Patroni's documentation, with quicker checks:
    https://github.com/patroni/patroni/blob/master/haproxy.cfg

    Args:
        nodes: The servers.
        cut: Whether the sessions of a server end when it is marked down
            (``on-marked-down shutdown-sessions``); otherwise they go on, whatever its role.
    """

    name = "haproxy"

    def __init__(self, nodes: Sequence[LocalNode], *, cut: bool = True) -> None:
        super().__init__()
        self._nodes = tuple(nodes)
        self._cut = cut
        self._ports = (0, 0)
        self._agents: list[RoleAgent] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._agents = [stack.enter_context(RoleAgent(node)) for node in self._nodes]
            super().__enter__()
            stack.callback(super().close)
            self._await_checks()
            self._stack = stack.pop_all()
        return self

    def close(self) -> None:
        self._stack.close()
        super().close()

    @property
    def rw(self) -> Place:
        """The address that leads to the master."""
        return Place(self.host, self._ports[0])

    @property
    def r(self) -> Place:
        """The address that leads to the replicas in turn."""
        return Place(self.host, self._ports[1])

    def leads(self, way: _Way) -> set[str]:
        """Return the names of the servers that an address leads to now."""
        return {row["svname"] for row in self._servers(way) if row["status"].startswith("UP")}

    async def until_leads(self, way: _Way, *nodes: LocalNode) -> float:
        """Wait until an address leads to these servers; return the monotonic time of that."""
        async with asyncio.timeout(_PATIENCE):
            while self.leads(way) != {node.name for node in nodes}:
                await asyncio.sleep(0.01)
        return time.monotonic()

    def demote(self, node: LocalNode, *, demoted: bool = True) -> None:
        """Make health checks say that a server is not a master, whatever it says itself.

        An HA manager's checks say so of a running master that has lost its lock. ``demoted=False``
        ends this.
        """
        (agent,) = [each for each in self._agents if each.node is node]
        agent.demoted = demoted

    def command(self, text: str) -> str:
        """Run a command of its Runtime API, such as ``shutdown sessions server rw/node1``.

        https://www.haproxy.com/documentation/haproxy-runtime-api/
        """
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(10)
            admin.connect(str(self.directory / "admin"))
            admin.sendall(text.encode() + b"\n")
            return b"".join(iter(lambda: admin.recv(65536), b"")).decode()

    def configure(self) -> list[str]:
        first, second = free_ports(2)
        self._ports = first, second
        lines = [
            "global",
            f"    stats socket {self.directory}/admin mode 600 level admin",
            "defaults",
            "    mode tcp",
            "    timeout connect 1s",
            "    timeout check 1s",
            "    timeout client 1h",
            "    timeout server 1h",
            *self._way("rw", self.rw.port, "/master"),
            *self._way("r", self.r.port, "/replica"),
        ]
        return ["-db", "-f", self.write("haproxy.cfg", "\n".join(lines) + "\n")]

    @property
    def listening(self) -> list[int]:
        return list(self._ports)

    def _way(self, name: _Way, port: int, path: str) -> list[str]:
        ending = " on-marked-down shutdown-sessions" if self._cut else ""
        return [
            f"listen {name}",
            f"    bind {self.host}:{port}",
            f"    option httpchk GET {path}",
            "    http-check expect status 200",
            f"    default-server {_CHECKS}{ending}",
            *(
                f"    server {agent.node.name} {agent.node.host}:{agent.node.port} "
                f"check port {agent.port}"
                for agent in self._agents
            ),
        ]

    def _servers(self, way: str) -> list[dict[str, str]]:
        rows = csv.DictReader(self.command("show stat").lstrip("# ").splitlines())
        ours = [row for row in rows if row["pxname"] == way]
        return [row for row in ours if row["svname"] not in {"FRONTEND", "BACKEND"}]

    def _await_checks(self) -> None:
        """Wait until each server has been checked: before that, all servers count as up."""
        until = time.monotonic() + _PATIENCE
        while not self._checked():
            assert time.monotonic() < until, f"no checks: {self.log[-2000:]}"
            time.sleep(0.01)

    def _checked(self) -> bool:
        try:
            servers = [row for way in ("rw", "r") for row in self._servers(way)]
        except (FileNotFoundError, ConnectionRefusedError):
            return False  # HAProxy listens for clients before it listens for commands
        return all("L" in row["check_status"] for row in servers)
