"""A real server at several loopback addresses, so that a name can move between them."""

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
    """The server; ``SELECT host(inet_server_addr())`` returns the address that a client used."""

    node: LocalNode
    addresses: tuple[str, ...]
    user: str
    password: str

    @property
    def port(self) -> int:
        """The port of the server, the same at every address."""
        return self.node.port

    def url(self, driver: str, host: str, query: str = "") -> str:
        """Return SQLAlchemy's URL for the application's database at a host."""
        login = f"{self.user}:{self.password}"
        return f"postgresql+{driver}://{login}@{host}:{self.port}/app{query}"


@contextmanager
def moving_server(*addresses: str, certificate: Path | None = None) -> Iterator[MovingServer]:
    """Start a server at these addresses; with a certificate, it offers TLS as well.

    The file holds the certificate and its key, as `testbed.certificates.Authority` issues them.
    """
    # The wheel's PostgreSQL was built without TLS.
    with LocalCluster(replicas=0, source="local" if certificate else "auto") as cluster:
        node = cluster.nodes[0]
        asyncio.run(_set_up(node, addresses, certificate))
        parsed = Dsn.parse(cluster.dsn)
        assert parsed.user is not None
        assert parsed.password is not None
        yield MovingServer(node, addresses, parsed.user, parsed.password)


async def listen_at(node: LocalNode, addresses: tuple[str, ...]) -> None:
    """Make a running server also listen at these addresses; it is restarted if necessary."""
    # Keep the server's own address, which LocalCluster uses.
    listen = ",".join((node.host, *addresses))
    if await node.sql("SHOW listen_addresses") != listen:
        await node.sql(f"ALTER SYSTEM SET listen_addresses = '{listen}'")
        await node.restart()


async def _set_up(node: LocalNode, addresses: tuple[str, ...], certificate: Path | None) -> None:
    if certificate is not None:
        # The server itself writes the file, because its own user must own it.
        await node.sql(
            f"COPY (SELECT unnest(string_to_array($pem${certificate.read_text().strip()}$pem$,"
            " E'\\n'))) TO PROGRAM 'umask 077; cat >moving.pem'"
        )
        await node.sql("ALTER SYSTEM SET ssl_cert_file = 'moving.pem'")
        await node.sql("ALTER SYSTEM SET ssl_key_file = 'moving.pem'")
        await node.sql("ALTER SYSTEM SET ssl = on")
    await listen_at(node, addresses)
