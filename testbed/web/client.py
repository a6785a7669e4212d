"""An HTTP/1.1 client that costs very little: one connection, one request at a time."""

from __future__ import annotations

import asyncio

__all__ = ("HttpClient",)


class HttpClient:
    """A client of a server on 127.0.0.1; it keeps one connection as long as the server does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, target: str) -> tuple[int, bytes]:
        """Return the status and the body of an answer.

        Raises:
            OSError: The connection was refused, or lost before the end of the answer.
        """
        if self._streams is not None and self._streams[0].at_eof():
            self.close()  # the server has closed the idle connection
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        lines = f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 0", "", ""
        try:
            writer.write("\r\n".join(lines).encode())
            status, headers = _parse(await reader.readuntil(b"\r\n\r\n"))
            # Answers with these two statuses have no body, although no header says so.
            body = b"" if status in {204, 304} else await _body(reader, headers)
        except asyncio.IncompleteReadError as error:
            self.close()
            raise ConnectionResetError("the server has closed the connection") from error
        except BaseException:
            self.close()
            raise
        # uvicorn closes the connection a moment after the answer of an endpoint that has raised. A
        # request sent in that moment would be lost.
        if status >= 500 or headers.get("connection", "").lower() == "close":
            self.close()
        return status, body

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    fields = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in fields}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") != "chunked":
        return await reader.read()
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts)
