"""A real server that has several addresses of loopback, so that a name can move between them."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from hasql.cluster.dsn import Dsn
from hasql.testing import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hasql.testing import LocalNode

__all__ = ("MovingServer", "listen_at", "moving_server")


class MovingServer(NamedTuple):
    """The server; ``SELECT host(inet_server_addr())`` tells by which address one came to it."""

    node: LocalNode
    addresses: tuple[str, ...]
    user: str
    password: str

    @property
    def port(self) -> int:
        """Its port, at every address."""
        return self.node.port

    def url(self, driver: str, host: str, query: str = "") -> str:
        """Return SQLAlchemy's URL of the application's database, at this host."""
        login = f"{self.user}:{self.password}"
        return f"postgresql+{driver}://{login}@{host}:{self.port}/app{query}"


@contextmanager
def moving_server(*addresses: str, certificate: Path | None = None) -> Iterator[MovingServer]:
    """Start a server at these addresses; with a key and a certificate it speaks TLS as well.

    Both are in one file, as `testbed.certificates.Authority` issues them.
    """
    # The wheel's PostgreSQL has no TLS.
    with LocalCluster(replicas=0, source="local" if certificate else "auto") as cluster:
        node = cluster.nodes[0]
        asyncio.run(_set_up(node, addresses, certificate))
        parsed = Dsn.parse(cluster.dsn)
        assert parsed.user is not None
        assert parsed.password is not None
        yield MovingServer(node, addresses, parsed.user, parsed.password)


async def listen_at(node: LocalNode, addresses: tuple[str, ...]) -> None:
    """Let a server that is there be at these addresses as well, which takes a restart."""
    # LocalCluster itself asks at its own address.
    listen = ",".join((node.host, *addresses))
    if await node.sql("SHOW listen_addresses") != listen:
        await node.sql(f"ALTER SYSTEM SET listen_addresses = '{listen}'")
        await node.restart()


async def _set_up(node: LocalNode, addresses: tuple[str, ...], certificate: Path | None) -> None:
    if certificate is not None:
        # By the server itself: the file must be its user's.
        await node.sql(
            f"COPY (SELECT unnest(string_to_array($pem${certificate.read_text().strip()}$pem$,"
            " E'\\n'))) TO PROGRAM 'umask 077; cat >moving.pem'"
        )
        await node.sql("ALTER SYSTEM SET ssl_cert_file = 'moving.pem'")
        await node.sql("ALTER SYSTEM SET ssl_key_file = 'moving.pem'")
        await node.sql("ALTER SYSTEM SET ssl = on")
    await listen_at(node, addresses)
