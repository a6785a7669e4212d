"""Queries over a server's own socket, in PostgreSQL's simple query protocol.

It costs a tenth of starting psql and needs no driver: this package must work with every driver.
https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SIMPLE-QUERY
"""

import socket
import struct
import time

from hasql.testing.errors import ClusterError

__all__ = ("ControlSession", "query")

_NAME = "hasql.testing"
"""The name of these sessions in `pg_stat_activity`."""


class ControlSession:
    """A session as the superuser.

    :param path: the path of the server's socket
    :param database: the database to log in to
    :param timeout: how many seconds the login may take
    :raises ClusterError: if the server refuses the login, with its message and SQLSTATE
    :raises OSError: if there is no server, or (TimeoutError) if it does not answer
    """

    def __init__(self, path: str, database: str, timeout: float) -> None:
        self._until = time.monotonic() + timeout
        self._buffer = b""
        self._prepared: dict[str, str] = {}
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            parameters = f"user\0postgres\0database\0{database}\0application_name\0{_NAME}\0\0"
            self._send(b"", struct.pack("!I", 196608) + parameters.encode())
            self._finish()
        except BaseException:
            self._socket.close()
            raise

    def run(self, sql: str, timeout: float) -> str:
        """Run `sql` and return its rows in the format that psql -At prints.

        :param timeout: how many seconds the whole call may take
        :raises ClusterError: if the server refuses the query, with its message and SQLSTATE
        :raises OSError: if the server is gone, or (TimeoutError) if it does not answer; the
            session can no longer be used after either
        """
        self._until = time.monotonic() + timeout
        self._send(b"Q", sql.encode() + b"\0")
        return "\n".join(self._finish())

    def run_prepared(self, sql: str, timeout: float) -> str:
        """Run a single statement that will be run again, parsing it only once; else like `run`."""
        until = time.monotonic() + timeout
        if sql not in self._prepared:
            name = f"asked_{len(self._prepared)}"
            self.run(f"PREPARE {name} AS {sql}", timeout)
            self._prepared[sql] = name
        return self.run(f"EXECUTE {self._prepared[sql]}", until - time.monotonic())

    def close(self) -> None:
        """End the session.

        The server is told so explicitly: a forked child may also hold the socket, and closing it
        here would not reach the server.
        """
        try:
            self._send(b"X", b"")
        except OSError:
            pass  # the server is gone
        finally:
            self._socket.close()

    def _send(self, kind: bytes, body: bytes) -> None:
        self._socket.sendall(kind + struct.pack("!I", len(body) + 4) + body)

    def _receive(self) -> tuple[bytes, bytes]:
        head = self._read(5)
        return head[:1], self._read(struct.unpack("!I", head[1:])[0] - 4)

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            data = self._socket.recv(65536)
            if not data:
                message = "server closed the connection"
                raise ConnectionResetError(message)
            self._buffer += data
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _finish(self) -> list[str]:
        """Read up to the next "ready for query" and return the rows on the way."""
        rows: list[str] = []
        error = ""
        while True:
            kind, body = self._receive()
            if kind == b"D":
                rows.append(_row(body))
            elif kind == b"E":
                error = _error(body)
                if error.startswith(("FATAL", "PANIC")):
                    raise ClusterError(error)
            elif kind == b"R" and body[:4] != b"\0\0\0\0":
                message = "the server asks for a password on its private socket"
                raise ClusterError(message)
            elif kind == b"Z":
                if error:
                    raise ClusterError(error)
                return rows


def _row(body: bytes) -> str:
    fields = []
    offset = 2
    for _ in range(struct.unpack_from("!H", body)[0]):
        size = struct.unpack_from("!i", body, offset)[0]
        offset += 4
        fields.append("" if size < 0 else body[offset : offset + size].decode())
        offset += max(size, 0)
    return "|".join(fields)


def _error(body: bytes) -> str:
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    severity, code = fields.get(b"V", fields.get(b"S", "ERROR")), fields.get(b"C", "?")
    return f"{severity} {code}: {fields.get(b'M', '')}"


def query(path: str, sql: str, *, timeout: float) -> str:
    """Run `sql` in the database ``app`` in a new session; otherwise like `ControlSession.run`."""
    until = time.monotonic() + timeout
    session = ControlSession(path, "app", timeout)
    try:
        return session.run(sql, until - time.monotonic())
    finally:
        session.close()
