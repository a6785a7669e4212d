"""Passages: the middle men between application and servers, which move when the master changes."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from hasql.dns import Resolver
from testbed.middlemen.addresses import Place, dsn_through
from testbed.middlemen.forwarder import Forwarder
from testbed.middlemen.haproxy import HAProxy
from testbed.middlemen.pgbouncer import PgBouncer
from testbed.nameserver import NameServer
from testbed.odd_defaults import odd_defaults

if TYPE_CHECKING:
    from hasql.testing import LocalCluster, LocalNode
    from testbed.middlemen.addresses import Address

__all__ = (
    "OddDefaults",
    "Passage",
    "Poolers",
    "PoolersThatMove",
    "Proxies",
    "Records",
    "Services",
    "UncutProxies",
    "UncutServices",
)

_NEXT_PROBE = 1.060
"""Seconds until another host of the DSN has been probed: `refresh_delay`, and a moment."""

_TTL = 1
"""Seconds for which the address of a name may be cached."""

_NEXT_LOOKUP = 1.1
"""Seconds until a name with that TTL has been looked up again: the TTL, and a moment."""

_ADDRESSES = "127.0.0.71", "127.0.0.72", "127.0.0.73"


class Passage:
    """The base of all passages; use it in ``async with``."""

    #: Whether it gives a server's connection to another client after each transaction.
    pools_transactions = False
    #: Whether a client's connection outlives the server's.
    outlives_servers = False
    #: Seconds after a promotion during which a lease of a replica may be on the new master.
    stale_for = 0.5
    #: Whether a reader's flow stays on a server that is promoted. Then its first lease afterwards
    #: is on a master, and hasql cannot know that before the server has answered.
    keeps_readers = False
    #: Seconds after a move during which hasql cannot know of it.
    unknown_for = 0.0
    #: For passages where nothing tells that a master was replaced but lives on: seconds after a
    #: lease was broken until hasql has checked where its name leads. None if `moved` tells.
    known_after_loss: float | None = None
    #: Whether each master must get a lease before the next one follows. Otherwise, as masters take
    #: turns, a manager that never moves would still be on the right one every other time.
    finds_each = False

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        #: The addresses in the DSN.
        self.addresses: list[Address] = []
        self.stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.stack = stack
            await self.open()
            self.stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()

    @property
    def dsn(self) -> str:
        return dsn_through(self.cluster, *self.addresses)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of a pool manager besides the DSN."""
        return {}

    @property
    def settings(self) -> dict[str, str]:
        """The settings for the application's sessions in the DSN."""
        return {}

    async def open(self) -> None:
        """Start the middle men."""
        raise NotImplementedError

    async def early(self, new: LocalNode) -> None:
        """Lead to a standby that is about to be promoted, like a service that moves too early."""

    async def moved(self, old: LocalNode, new: LocalNode) -> float:
        """Lead to the new master; return when hasql could know that the old one was replaced."""
        raise NotImplementedError

    async def joined(self, old: LocalNode) -> None:
        """Note that the old master is a standby now."""

    def others(self, *nodes: LocalNode) -> list[LocalNode]:
        """Return all nodes except these."""
        return [node for node in self.cluster.nodes if node not in nodes]


class Proxies(Passage):
    """HAProxy, which cuts the sessions of a server whose check fails.

    hasql could know of a replacement once HAProxy leads only to the new master: then no flow to the
    old one is left, and none can be opened.
    """

    cut = True

    async def open(self) -> None:
        self.proxy = self.stack.enter_context(HAProxy(self.cluster.nodes, cut=self.cut))
        self.addresses = [self.proxy.rw, self.proxy.r]

    async def moved(self, old: LocalNode, new: LocalNode) -> float:
        self.proxy.demote(old)
        return await self.proxy.until_leads("rw", new)

    async def joined(self, old: LocalNode) -> None:
        self.proxy.demote(old, demoted=False)


class UncutProxies(Proxies):
    """HAProxy, which lets existing sessions live on, wherever they lead.

    If a master dies, its sessions end as above. A master that is replaced but lives on keeps its
    sessions, including the reserved one. Nothing else in the DSN leads to the new master: the
    address for replicas no longer does, except by chance through a session from before. So hasql
    could know when it next checks where the writer's address leads. It does that within 40 seconds,
    which the scene does not wait for, or with the next probe after a lease was broken. Therefore a
    lease of each driver is broken.
    """

    cut = False
    keeps_readers = True
    known_after_loss = _NEXT_PROBE


class Services(Passage):
    """A name for writers and one for readers, like Kubernetes services that cut flows at a move.

    hasql could know from the move on, which cuts the flows to the old master. Those of readers are
    not cut.
    """

    keeps_readers = True

    async def open(self) -> None:
        cluster = self.cluster
        self.writer = await self.stack.enter_async_context(Forwarder(cluster.master))
        self.reader = await self.stack.enter_async_context(Forwarder(*cluster.replicas))
        self.addresses = [self.writer, self.reader]

    async def early(self, new: LocalNode) -> None:
        self.writer.turn(new, cut=True)

    async def moved(self, old: LocalNode, new: LocalNode) -> float:
        self.writer.turn(new, cut=True)
        self.reader.turn(*self.others(old, new))
        return time.monotonic()

    async def joined(self, old: LocalNode) -> None:
        self.reader.turn(old, *self.others(old, self.cluster.master))


class UncutServices(Services):
    """The same, but no flow is cut; the servers' own addresses are in the DSN as well.

    hasql could know once it has probed the new master at its own address.
    """

    async def open(self) -> None:
        await super().open()
        self.addresses += self.cluster.nodes

    async def early(self, new: LocalNode) -> None:
        self.writer.turn(new)

    async def moved(self, old: LocalNode, new: LocalNode) -> float:
        promoted = time.monotonic()
        self.writer.turn(new)
        self.reader.turn(*self.others(old, new))
        return promoted + _NEXT_PROBE


class Records(Passage):
    """A name for writers and one for readers in DNS, whose records are changed; no flow is cut.

    Each server has an address of its own, and all have the same port. A client that does not follow
    the names has no way to the next master. hasql could know of a move once it has looked the name
    up.
    """

    finds_each = True

    async def open(self) -> None:
        nodes = self.cluster.nodes
        self.nameserver = self.stack.enter_context(NameServer())
        self.at: dict[LocalNode, str] = dict(zip(nodes, _ADDRESSES, strict=True))
        port = 0
        for node, address in self.at.items():
            forwarder = Forwarder(node, listen=address, listen_port=port)
            port = (await self.stack.enter_async_context(forwarder)).port
        self.writer, self.reader = (Place(f"{name}.hasql.test", port) for name in ("rw", "r"))
        self.addresses = [self.writer, self.reader]
        # The reader's name must not lead to the server that is promoted next.
        self.point(self.writer, self.cluster.master)
        self.point(self.reader, self.cluster.replicas[-1])
        self.resolver = Resolver(nameservers=[self.nameserver.address], fallback=False)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"resolver": self.resolver}

    def point(self, name: Place, node: LocalNode) -> None:
        """Make a name lead to a server."""
        self.nameserver.set(name.host, self.at[node], ttl=_TTL)

    async def early(self, new: LocalNode) -> None:
        self.point(self.writer, new)

    async def moved(self, old: LocalNode, new: LocalNode) -> float:
        self.point(self.writer, new)
        self.point(self.reader, self.others(old, new)[0])
        return time.monotonic() + _NEXT_LOOKUP


class Poolers(Passage):
    """A PgBouncer in front of each server, which stays there; it pools transactions.

    hasql could know once it has probed the new master. What a server reports of itself before that
    reaches the pooler, which holds the session, but not hasql.
    """

    pools_transactions = True
    outlives_servers = True
    stale_for = _NEXT_PROBE

    async def open(self) -> None:
        self.addresses = [
            self.stack.enter_context(PgBouncer(self.cluster, node, pool_mode="transaction"))
            for node in self.cluster.nodes
        ]

    async def moved(self, old: LocalNode, new: LocalNode) -> float:
        del old, new
        return time.monotonic() + _NEXT_PROBE


class PoolersThatMove(Passage):
    """A PgBouncer for writers and one for readers, which are pointed to other servers.

    Their flags about a server that they have left are useless, so hasql could know only after its
    next probe. Until then a lease of a master may even be on a standby.
    """

    pools_transactions = True
    outlives_servers = True
    stale_for = unknown_for = _NEXT_PROBE

    async def open(self) -> None:
        nodes = self.cluster.master, self.cluster.replicas[0]
        self.writer, self.reader = (
            self.stack.enter_context(PgBouncer(self.cluster, node, pool_mode="transaction"))
            for node in nodes
        )
        self.addresses = [self.writer, self.reader]

    async def early(self, new: LocalNode) -> None:
        await self.writer.point_to(new)

    async def moved(self, old: LocalNode, new: LocalNode) -> float:
        await self.writer.point_to(new)
        await self.reader.point_to(self.others(old, new)[0])
        return time.monotonic() + _NEXT_PROBE


class OddDefaults(Passage):
    """No middle man, but odd defaults of the application's role, its database and its environment.

    The DSN sets the application's sessions to what they need to work. hasql could know once it has
    probed the new master.
    """

    async def open(self) -> None:
        await self.stack.enter_async_context(odd_defaults(self.cluster))
        self.addresses += self.cluster.nodes

    @property
    def settings(self) -> dict[str, str]:
        return {
            # A standby refuses serializable transactions, and 1 ms is too short for any.
            "default_transaction_isolation": "repeatable read",
            "idle_in_transaction_session_timeout": "30s",
        }

    async def moved(self, old: LocalNode, new: LocalNode) -> float:
        del old, new
        return time.monotonic() + _NEXT_PROBE
