"""A real server that admits only clients with TLS and a client certificate."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from testbed.certificates import Authority
from testbed.moving_server import MovingServer, moving_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ("SecuredServer", "secured_server")

_INTO_FILE = (
    "COPY (SELECT unnest(string_to_array($text${text}$text$, E'\\n'))) TO PROGRAM 'cat >{name}'"
)
_RULE = "hostssl all app all scram-sha-256 clientcert=verify-ca"
_BEFORE_OTHERS = (
    f"COPY (SELECT unnest(array['{_RULE}', 'hostnossl all app all reject'] || string_to_array("
    "replace(pg_read_file(current_setting('hba_file')), E'\\t', ' '), E'\\n'))) "
    "TO PROGRAM 'cat >hba.new && mv hba.new pg_hba.conf'"
)


class SecuredServer(NamedTuple):
    """The server, the authority that it trusts, and a client certificate that it accepts."""

    server: MovingServer
    trusted: Path
    certificate: Path

    def dsn(self, query: str = "", *, host: str = "127.0.0.1") -> str:
        """Return the application's DSN."""
        login = f"{self.server.user}:{self.server.password}"
        return f"postgresql://{login}@{host}:{self.server.port}/app{query}"


@contextmanager
def secured_server(directory: Path) -> Iterator[SecuredServer]:
    """Start the server at 127.0.0.1, the only name in its certificate; needs `needs_tls`."""
    authority = Authority(directory / "authority")
    own = authority.issue("IP:127.0.0.1")
    of_client = authority.issue("DNS:client.example.test")
    of_client.chmod(0o600)  # otherwise libpq does not accept the key in it
    with moving_server(certificate=own) as server:
        asyncio.run(_demand(server, authority.certificate.read_text().strip()))
        yield SecuredServer(server, authority.certificate, of_client)


async def _demand(server: MovingServer, trusted: str) -> None:
    await server.node.sql(_INTO_FILE.format(text=trusted, name="trusted.crt"))
    await server.node.sql("ALTER SYSTEM SET ssl_ca_file = 'trusted.crt'")
    await server.node.sql(_BEFORE_OTHERS)
    await server.node.sql("SELECT pg_reload_conf()")
