"""Answers 503 with Retry-After if no host could serve a request in time."""

from __future__ import annotations

import logging
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from flask import request, request_finished
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wsgi import ClosingIterator

from hasql.diagnostics import about
from hasql.errors import NotAvailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

    from flask import Flask, Response

__all__ = ("UnavailableAnswers",)

log = logging.getLogger("hasql")

_OF_HANDLER: Final = "hasql.error_of_handler"
"""The key in a request's WSGI environment of the error that an error handler has raised."""
_STREAMED: Final = "hasql.streamed"
"""The key in it that is set if the response is generated while it is sent."""


class UnavailableAnswers:
    """Turns NotAvailableError into a 503 in one application, unless the application handles it.

    Args:
        app: The application. `handle` calls its `handle_user_exception`; its `handle_exception` and
            `wsgi_app` are replaced here. Flask allows applications to replace these methods.
        retry_after: Seconds for the header ``Retry-After``.
    """

    def __init__(self, app: Flask, retry_after: int) -> None:
        self._app = app
        self._retry_after = retry_after
        self._handle = app.handle_user_exception
        self._answer_behind_handlers()
        request_finished.connect(self._note_stream, app)
        self._answer_behind_requests()

    def handle(self, *args: Any) -> Any:
        """Replace `handle_user_exception`; the error is the last argument."""
        error = args[-1]
        if not isinstance(error, NotAvailableError):
            return self._handle(*args)
        if not self._has_handler(error):
            args = (*args[:-1], self._answer_to(error))
        try:
            return self._handle(*args)
        except NotAvailableError as failed:
            request.environ[_OF_HANDLER] = failed
            raise

    def _answer_behind_handlers(self) -> None:
        """Also answer errors for which Flask asks no handler except that of a 500.

        Opening or saving a session, an `after_request` function, or an error handler may raise
        them.
        """
        app: Any = self._app  # another Flask's methods may take other arguments
        handle_any = app.handle_exception

        def handle(*args: Any) -> Any:
            error = args[-1]
            if not isinstance(error, NotAvailableError):
                return handle_any(*args)
            if request.environ.pop(_OF_HANDLER, None) is error:
                answer = self._answer_to(error)
            else:
                try:
                    answer = app.handle_user_exception(*args)
                except Exception as failed:  # noqa: BLE001  # raised by a handler
                    return handle(*args[:-1], failed)
            # As with Flask's own 500, errors from here on are only logged.
            return app.finalize_request(*args[:-1], answer, from_error_handler=True)

        app.handle_exception = handle

    def _note_stream(self, _: Flask, response: Response, **_others: Any) -> None:
        # A direct_passthrough response is a file, which the server may send in its own way.
        if response.is_streamed and not response.direct_passthrough:
            request.environ[_STREAMED] = True

    def _answer_behind_requests(self) -> None:
        """Also answer errors that a streamed response or a teardown function raises.

        The response has begun by then. The server is told to begin another one; if it has already
        sent something, it raises the error instead. Flask's test clients do the same.
        """
        app: Any = self._app
        serve_any = app.wsgi_app

        def serve(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            try:
                body: Iterable[bytes] = serve_any(environ, start)
            except NotAvailableError as error:
                return self._begin_anew(start, error)
            if not environ.pop(_STREAMED, False):
                return body
            return ClosingIterator(self._streamed(start, body), getattr(body, "close", None))

        app.wsgi_app = serve

    def _streamed(self, start: StartResponse, body: Iterable[bytes]) -> Iterator[bytes]:
        try:
            for part in body:  # noqa: UP028  # `yield from` would close it, as the server does
                yield part
        except NotAvailableError as error:
            yield from self._begin_anew(start, error)

    def _begin_anew(self, start: StartResponse, error: NotAvailableError) -> Iterable[bytes]:
        status = HTTPStatus.SERVICE_UNAVAILABLE
        headers = [("Retry-After", str(self._retry_after)), ("Content-Length", "0")]
        start(f"{status.value} {status.phrase}", headers, sys.exc_info())
        log.warning("answering a request with 503: %s", error, extra=about("answered_503"))
        return ()

    def _answer_to(self, error: NotAvailableError) -> ServiceUnavailable:
        log.warning("answering a request with 503: %s", error, extra=about("answered_503"))
        unavailable = ServiceUnavailable(retry_after=self._retry_after)
        unavailable.__cause__ = error
        return unavailable

    def _has_handler(self, error: Exception) -> bool:
        """Tell whether the application has a handler for this kind of error, not for any error."""
        kinds = type(error).__mro__
        kinds = kinds[: kinds.index(Exception)]
        handlers = self._app.error_handler_spec
        return any(
            kind in handlers.get(name, {}).get(None, {})
            for name in (*request.blueprints, None)
            for kind in kinds
        )
