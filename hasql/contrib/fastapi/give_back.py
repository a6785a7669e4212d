"""The ASGI middleware that gives a request's connections back before the response begins."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException, WebSocketException

from hasql.contrib.fastapi.request_leases import RequestLeases
from hasql.diagnostics import about
from hasql.errors import NotAvailableError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from hasql.base import BasePoolManager

__all__ = ("ANSWERED", "RETRY_AFTER", "GiveBackMiddleware")

log = logging.getLogger("hasql")

#: Seconds after which a client may ask again.
RETRY_AFTER = "1"
#: The key in a request's scope that says that the application's handlers have got its 503.
ANSWERED = "hasql.answered"
#: The close code "Try Again Later" of WebSockets.
_TRY_AGAIN_LATER = 1013


class GiveBackMiddleware:
    """Runs between the app's exception handlers and its routes.

    Here an error while giving back can still become any response, and a NotAvailableError that the
    app does not handle can become a 503.
    """

    def __init__(self, app: ASGIApp, pool: BasePoolManager[Any, Any], key: str) -> None:
        self._app = app
        self._pool = pool
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, one WebSocket, or the lifespan."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        leases: RequestLeases[Any] = RequestLeases(self._pool)
        scope[self._key] = leases
        begun = False
        failure: Exception | None = None

        async def send_after(message: Message) -> None:
            nonlocal begun, failure
            if failure is not None:
                raise failure  # the response is wrong now, so nothing of it may be sent
            if not begun and message["type"] == "http.response.start":
                try:
                    await leases.end(None)
                except Exception as error:
                    failure = error
                    raise
                begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_after)
        except BaseException as error:
            await leases.end(error)
            # The code between here and `send_after` saw the failure as a failed send, and may have
            # raised another error instead.
            if failure is not None and isinstance(error, Exception):
                raise failure  # noqa: B904  # it came first
            if isinstance(error, NotAvailableError) and not begun:
                log.warning("answering a request with 503: %s", error, extra=about("answered_503"))
                scope[ANSWERED] = True
                headers = {"Retry-After": RETRY_AFTER}
                raise HTTPException(503, headers=headers) from error
            raise
        await leases.end(None)
        if failure is not None:
            raise failure

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[self._key] = None
        accepted = False

        async def watch(message: Message) -> None:
            nonlocal accepted
            accepted = accepted or message["type"] == "websocket.accept"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except NotAvailableError as error:
            log.warning("closing a WebSocket: %s", error, extra=about("websocket_closed"))
            if not accepted and "websocket.http.response" in scope.get("extensions", {}):
                headers = {"Retry-After": RETRY_AFTER}
                raise HTTPException(503, headers=headers) from error
            raise WebSocketException(_TRY_AGAIN_LATER) from error
