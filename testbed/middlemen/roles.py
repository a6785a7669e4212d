"""The endpoints for health checks: an HTTP port for each server that tells the server's role.

Like Patroni's REST API, they answer ``/master`` and ``/replica`` with 200 or 503.
https://patroni.readthedocs.io/en/latest/rest_api.html#health-check-endpoints
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, Self

import psycopg2

if TYPE_CHECKING:
    from hasql.testing import LocalNode

__all__ = ("RoleAgent",)


class RoleAgent:
    """Answers for one server, which it asks on each request; use it in ``with``."""

    def __init__(self, node: LocalNode) -> None:
        self.node = node
        #: Whether to say that the server is not a master, as if it had lost the leader's lock.
        self.demoted = False
        self._connection: Any = None
        agent = self

        class Handler(BaseHTTPRequestHandler):
            roles: ClassVar = {"/master": False, "/replica": True}

            def do_GET(self) -> None:
                role = self.roles[self.path]
                holds = agent.in_recovery() is role and (role or not agent.demoted)
                self.send_response(200 if holds else 503)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        # It runs in a thread, because checks must go on while a test's event loop is busy.
        self._thread = threading.Thread(target=self._serve, name=f"role of {node.name}")
        self._thread.daemon = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._hang_up()

    def in_recovery(self) -> bool | None:
        """Return the server's answer, or None if it does not answer."""
        if not self.node.running or self.node.frozen:
            return None
        try:
            if self._connection is None:
                self._connection = psycopg2.connect(
                    self.node.superuser_dsn, connect_timeout=2, application_name="health check"
                )
                self._connection.autocommit = True
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT pg_is_in_recovery()")
                (answer,) = cursor.fetchone()
        except psycopg2.Error:
            self._hang_up()
            return None
        assert isinstance(answer, bool)
        return answer

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=0.02)
