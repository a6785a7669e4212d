"""Answers 503 with Retry-After if a middleware of the application raises NotAvailableError."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NoReturn

from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import Response

from hasql.contrib.fastapi.give_back import ANSWERED, RETRY_AFTER
from hasql.diagnostics import about
from hasql.errors import NotAvailableError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ("answer_for_middleware",)

log = logging.getLogger("hasql")

_HEADERS = {"Retry-After": RETRY_AFTER}


def answer_for_middleware(app: Starlette) -> None:
    """Make an application answer errors of its middleware, whenever that is added.

    Which middleware is the outermost is known only when the stack is built, at the first request.
    """
    build = app.build_middleware_stack

    def build_around() -> ASGIApp:
        app.user_middleware.insert(0, Middleware(UnavailableMiddleware, of=app))
        try:
            return build()
        finally:
            del app.user_middleware[0]

    app.build_middleware_stack = build_around  # type: ignore[method-assign]  # on purpose


class UnavailableMiddleware:
    """Wraps the application's own middleware, whose errors its handlers do not see."""

    def __init__(self, app: ASGIApp, of: Starlette) -> None:
        self._app = app
        self._of = of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, one WebSocket, or the lifespan."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except NotAvailableError as error:
            if begun:
                raise
            if scope.get(ANSWERED) is not None:  # the application's handler of the 503 raised this
                await Response(status_code=503, headers=_HEADERS)(scope, receive, send)
            else:
                await self._answer(error, scope, receive, send)

    async def _answer(
        self, error: NotAvailableError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Let the application's handlers answer the error as if a route had raised it."""

        async def fail(*_: object) -> NoReturn:
            raise error

        async def fail_unhandled(*_: object) -> NoReturn:
            raise HTTPException(503, headers=_HEADERS) from error

        handlers = dict(self._of.exception_handlers)
        for of_servers in (500, Exception):
            handlers.pop(of_servers, None)
        try:
            await ExceptionMiddleware(fail, handlers)(scope, receive, send)
        except NotAvailableError:
            log.warning("answering a request with 503: %s", error, extra=about("answered_503"))
            await ExceptionMiddleware(fail_unhandled, handlers)(scope, receive, send)
