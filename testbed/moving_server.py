"""A real server that has several addresses of loopback, so that a name can move between them."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from hasql.cluster.dsn import Dsn
from hasql.testing import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hasql.testing import LocalNode

__all__ = ("Authority", "MovingServer", "listen_at", "moving_server")


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


class Authority:
    """An authority that signs certificates, with files in a directory. It needs openssl."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._openssl(
            *("req", "-x509", "-days", "30", "-nodes", "-subj", "/CN=hasql tests"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", "ca.key", "-out", "ca.crt"),
            *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
        )

    @property
    def certificate(self) -> Path:
        """What clients trust."""
        return self._directory / "ca.crt"

    def sign(self, name: str) -> tuple[str, str]:
        """Return a private key and the certificate for a name, and no address, as PEM."""
        (self._directory / "server.ext").write_text(
            f"subjectAltName=DNS:{name}\nauthorityKeyIdentifier=keyid\n"
        )
        self._openssl(
            *("req", "-new", "-nodes", "-subj", f"/CN={name}"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", "server.key", "-out", "server.csr"),
        )
        self._openssl(
            *("x509", "-req", "-days", "30", "-in", "server.csr", "-CA", "ca.crt"),
            *("-CAkey", "ca.key", "-CAcreateserial", "-extfile", "server.ext"),
            *("-out", "server.crt"),
        )
        key, certificate = self._directory / "server.key", self._directory / "server.crt"
        return key.read_text(), certificate.read_text()

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments],  # noqa: S607 - that of this machine
            cwd=self._directory,
            capture_output=True,
            check=True,
        )


@contextmanager
def moving_server(
    *addresses: str, certificate: tuple[str, str] | None = None
) -> Iterator[MovingServer]:
    """Start a server at these addresses; with a key and a certificate it speaks TLS as well."""
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


async def _set_up(
    node: LocalNode, addresses: tuple[str, ...], certificate: tuple[str, str] | None
) -> None:
    if certificate is not None:
        for name, pem in zip(("moving.key", "moving.crt"), certificate, strict=True):
            # By the server itself: they must be its user's.
            await node.sql(
                f"COPY (SELECT unnest(string_to_array($pem${pem.strip()}$pem$, E'\\n')))"
                f" TO PROGRAM 'umask 077; cat >{name}'"
            )
        await node.sql("ALTER SYSTEM SET ssl_cert_file = 'moving.crt'")
        await node.sql("ALTER SYSTEM SET ssl_key_file = 'moving.key'")
        await node.sql("ALTER SYSTEM SET ssl = on")
    await listen_at(node, addresses)
