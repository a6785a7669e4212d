"""PgBouncer in front of a server: pools sessions or transactions."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING, Any, Literal

import psycopg2
import psycopg2.extras

from hasql.cluster.dsn import Dsn
from hasql.testing._ports import free_ports
from testbed.middlemen.program import Program

if TYPE_CHECKING:
    from hasql.testing import LocalCluster
    from testbed.middlemen.addresses import Address

__all__ = ("PgBouncer",)

_TRACKS_MORE = (1, 20)
"""The first version that has `track_extra_parameters`."""


class PgBouncer(Program):
    """Pools sessions or transactions of one server at a time.

    The cluster's roles ``app`` and ``postgres`` log in with the same passwords as on the cluster.

    Args:
        cluster: The cluster whose roles and database clients use.
        server: The server (or middle man) that PgBouncer leads to.
        pool_mode: ``session`` or ``transaction``.
        settings: Other settings of PgBouncer, such as ``default_pool_size``,
            ``ignore_startup_parameters``, ``query_wait_timeout`` or ``server_lifetime``:
            https://www.pgbouncer.org/config.html
            ``track_extra_parameters`` is left out if the version is too old for it.
    """

    name = "pgbouncer"

    def __init__(
        self,
        cluster: LocalCluster,
        server: Address,
        *,
        pool_mode: Literal["session", "transaction"] = "session",
        **settings: object,
    ) -> None:
        super().__init__()
        self.port = 0
        self._logins = [Dsn.parse(dsn) for dsn in (cluster.dsn, cluster.superuser_dsn)]
        self._server = server
        self._settings = {
            "auth_type": "scram-sha-256",
            "admin_users": "postgres",
            "pool_mode": pool_mode,
            "default_pool_size": 20,
            "max_client_conn": 1000,
            "unix_socket_dir": "",
            "log_connections": 0,
            "log_disconnections": 0,
            # Notice a server that has come back after 0.2 s, not after the default 15 s.
            "server_login_retry": 0.2,
            **settings,
        }
        if not self.tracks_more():
            self._settings.pop("track_extra_parameters", None)

    def tracks_more(self) -> bool:
        """Tell whether this version has the setting `track_extra_parameters`."""
        said = subprocess.run(
            [str(self._program), "--version"], capture_output=True, text=True, check=True
        ).stdout
        return tuple(map(int, said.split()[1].split(".")[:2])) >= _TRACKS_MORE

    async def point_to(self, server: Address, *, cut: bool = False) -> None:
        """Lead to another server from now on; return once it does.

        Without `cut`, each connection to the old server is closed when its client no longer uses
        it: at the end of a transaction or of a session, according to the pool mode. With `cut`, all
        connections end now, also those of clients.
        """
        self._server = server
        self._write()
        await self.console("RELOAD")
        if cut:
            await self.cut()

    async def cut(self) -> None:
        """End all connections now, those of clients and those to the server."""
        await self.console("KILL app")
        await self.console("RESUME app")

    async def console(self, command: str) -> list[dict[str, Any]]:
        """Run a command of the admin console; return the rows of SHOW, by the names of columns."""
        return await asyncio.to_thread(self._command, command)

    def configure(self) -> list[str]:
        (self.port,) = free_ports(1)
        users = "".join(f'"{each.user}" "{each.password}"\n' for each in self._logins)
        self.write("users.txt", users)
        return [self._write()]

    @property
    def listening(self) -> list[int]:
        return [self.port]

    def _write(self) -> str:
        settings = {
            "listen_addr": self.host,
            "listen_port": self.port,
            "auth_file": str(self.directory / "users.txt"),
            **self._settings,
        }
        database = f"app = host={self._server.host} port={self._server.port} dbname=app"
        lines = ["[databases]", database, "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        return self.write("pgbouncer.ini", "\n".join(lines) + "\n")

    def _command(self, command: str) -> list[dict[str, Any]]:
        superuser = self._logins[1]
        connection = psycopg2.connect(
            host=self.host,
            port=self.port,
            user=superuser.user,
            password=superuser.password,
            dbname="pgbouncer",
            connect_timeout=10,
        )
        try:
            connection.autocommit = True  # the console does not know BEGIN
            with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                cursor.execute(command)
                return [dict(row) for row in cursor] if cursor.description else []
        finally:
            connection.close()
