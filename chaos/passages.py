"""Passages: what lies between the application and the servers, and moves when a master does."""

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
"""Seconds until another host of the DSN has been asked: `refresh_delay`, and a moment."""

_TTL = 1
"""Seconds for which what a name leads to may be kept."""

_NEXT_LOOKUP = 1.1
"""Seconds until a name with that TTL has been looked up, and a moment."""

_ADDRESSES = "127.0.0.71", "127.0.0.72", "127.0.0.73"


class Passage:
    """Use it in ``async with``."""

    #: Whether it gives a server's connection to another client after each transaction.
    pools_transactions = False
    #: Whether a client's connection outlives the server's.
    outlives_servers = False
    #: Seconds after a promotion in which a lease of a replica may turn out to be on the new master.
    stale_for = 0.5
    #: Whether a reader's flow stays on a server that is promoted. Then its first lease afterwards
    #: is on a master, and nobody can know before it has answered.
    keeps_readers = False
    #: Seconds after a move in which nobody can know of it.
    unknown_for = 0.0
    #: Where nothing tells of a master that was replaced and lives on: seconds after a lease was
    #: broken until hasql has looked where its name leads. None: `moved` knows.
    known_after_loss: float | None = None
    #: Whether there has to be a lease on each master before the next one follows: where masters
    #: take turns, who never moves has one every other time.
    finds_each = False

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        #: What stands in the DSN.
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
        """What a pool manager is given besides the DSN."""
        return {}

    @property
    def settings(self) -> dict[str, str]:
        """What the DSN sets the application's sessions to."""
        return {}

    async def open(self) -> None:
        """Start what is there."""
        raise NotImplementedError

    async def early(self, new: LocalNode) -> None:
        """Lead to a standby that is about to be promoted, as services do that are too quick."""

    async def moved(self, old: LocalNode, new: LocalNode) -> float:
        """Lead to the new master; return from when on hasql could know that the old is none."""
        raise NotImplementedError

    async def joined(self, old: LocalNode) -> None:
        """Take note that the old master is a standby now."""

    def others(self, *nodes: LocalNode) -> list[LocalNode]:
        """Return the nodes but these."""
        return [node for node in self.cluster.nodes if node not in nodes]


class Proxies(Passage):
    """HAProxy: sessions are cut where a check fails.

    hasql could know from when HAProxy leads to the new master alone: then no flow to the old one is
    left, and none can be opened.
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
    """The same, and sessions live on, wherever they lead.

    With a master that dies its sessions end, as above. One that is replaced and lives on keeps
    them, the reserved one among them, and nothing else in the DSN leads to the new master: the
    address for replicas does not lead there any more, but for a session from before by chance. So
    hasql could know when it next looks where the writer's address leads: within 40 seconds, which
    is not waited for here, or with the next probe once a lease was broken. Each driver loses one.
    """

    cut = False
    keeps_readers = True
    known_after_loss = _NEXT_PROBE


class Services(Passage):
    """A writer's name and a reader's, as of a Kubernetes service whose flows are cut at a move.

    hasql could know from the move on: the flows to the old master are cut with it. Those of readers
    are not.
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
    """The same, and no flow is cut; the servers' own addresses stand in the DSN as well.

    hasql could know once the new master's own address has been asked, after its next probe.
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
    """A writer's name and a reader's in DNS, whose records are repointed; no flow is cut.

    Each server has an address of its own, and all have one port. Whoever does not follow the names
    has no way to the next master. hasql could know of a move once it has looked the name up.
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
        # Not to the one that is promoted next.
        self.point(self.writer, self.cluster.master)
        self.point(self.reader, self.cluster.replicas[-1])
        self.resolver = Resolver(nameservers=[self.nameserver.address], fallback=False)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"resolver": self.resolver}

    def point(self, name: Place, node: LocalNode) -> None:
        """Let a name lead to a server."""
        self.nameserver.set(name.host, self.at[node], ttl=_TTL)

    async def early(self, new: LocalNode) -> None:
        self.point(self.writer, new)

    async def moved(self, old: LocalNode, new: LocalNode) -> float:
        self.point(self.writer, new)
        self.point(self.reader, self.others(old, new)[0])
        return time.monotonic() + _NEXT_LOOKUP


class Poolers(Passage):
    """A PgBouncer before each server, which stays there; it pools transactions.

    hasql could know once the new master has been asked, after its next probe: what the server says
    of itself meanwhile is told to whoever pools sessions with it, not to us.
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
    """A PgBouncer for writers and one for readers, which are pointed at other servers.

    What they say of a server that they have left is of no use: hasql could know after its next
    probe. In this time a lease may also be on a standby.
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
    """Nothing but defaults of the application's role and of its database, and its environment.

    Sessions of the application's own are set to what they cannot do without. hasql could know once
    the new master has been asked, after its next probe.
    """

    async def open(self) -> None:
        await self.stack.enter_async_context(odd_defaults(self.cluster))
        self.addresses += self.cluster.nodes

    @property
    def settings(self) -> dict[str, str]:
        return {
            # A standby refuses what is serializable, and 1 ms is too short for any transaction.
            "default_transaction_isolation": "repeatable read",
            "idle_in_transaction_session_timeout": "30s",
        }

    async def moved(self, old: LocalNode, new: LocalNode) -> float:
        del old, new
        return time.monotonic() + _NEXT_PROBE
