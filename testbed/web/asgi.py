"""An ASGI server for one request, in this process: it records each message and when it came."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message

__all__ = ("AsgiResponse", "ask")


@dataclass
class AsgiResponse:
    """The messages that an application has sent."""

    messages: list[Message] = field(default_factory=list)
    #: What `watch` returned before each of them went out.
    watched: list[Any] = field(default_factory=list)
    #: The error that left the application; a server would log it.
    error: Exception | None = None

    @property
    def status(self) -> int:
        (status,) = (x["status"] for x in self.messages if x["type"].endswith("response.start"))
        assert isinstance(status, int)
        return status

    @property
    def headers(self) -> dict[str, str]:
        (pairs,) = (x["headers"] for x in self.messages if x["type"].endswith("response.start"))
        return {name.decode().lower(): value.decode() for name, value in pairs}

    @property
    def body(self) -> bytes:
        parts = (x.get("body", b"") for x in self.messages if x["type"].endswith("response.body"))
        return b"".join(parts)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    app: ASGIApp,
    path: str,
    method: str = "GET",
    *,
    watch: Callable[[], Any] = lambda: None,
    scope: dict[str, Any] | None = None,
) -> AsgiResponse:
    """Make an application answer one request; the client waits for the whole answer.

    Args:
        app: The application; the caller runs its lifespan.
        path: The path of the request.
        method: The method of the request.
        watch: Called whenever the application sends something.
        scope: More entries for the connection's scope. The type ``websocket`` makes it a WebSocket,
            which connects and sends nothing.
    """
    response = AsgiResponse()
    received = 0

    async def receive() -> Message:
        nonlocal received
        received += 1
        if received > 1:
            await asyncio.Event().wait()  # the client does not disconnect
        if (scope or {}).get("type") == "websocket":
            return {"type": "websocket.connect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        response.watched.append(watch())
        response.messages.append(message)

    connection = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"test")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        **(scope or {}),
    }
    try:
        await app(connection, receive, send)
    except Exception as error:  # noqa: BLE001  # for the caller to look at
        response.error = error
    return response
