"""503 with Retry-After for a request that no host could serve in time."""

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
"""Where in a request's WSGI environment stands what an error handler has raised."""
_STREAMED: Final = "hasql.streamed"
"""Where in it stands that its response is made while it is sent."""


class UnavailableAnswers:
    """Makes 503 of NotAvailableError in one application, unless that handles it.

    Args:
        app: Its `handle_user_exception` is called by `handle`, `handle_exception` and `wsgi_app`
            are replaced. An application may replace each of these methods.
        retry_after: Seconds for the header.
    """

    def __init__(self, app: Flask, retry_after: int) -> None:
        self._app = app
        self._retry_after = retry_after
        self._handle = app.handle_user_exception
        self._answer_behind_handlers()
        request_finished.connect(self._note_stream, app)
        self._answer_behind_requests()

    def handle(self, *args: Any) -> Any:
        """Do what `handle_user_exception` does with an error, which is the last argument."""
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
        """Answer also what is raised where Flask asks no handler but that of a 500.

        So it is with a session that is opened or saved, an `after_request` function, or a handler.
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
                except Exception as failed:  # noqa: BLE001  # of a handler
                    return handle(*args[:-1], failed)
            # As Flask does with a 500: what raises now is only logged.
            return app.finalize_request(*args[:-1], answer, from_error_handler=True)

        app.handle_exception = handle

    def _note_stream(self, _: Flask, response: Response, **_others: Any) -> None:
        # What is passed through directly is a file, for which a server may have means of its own.
        if response.is_streamed and not response.direct_passthrough:
            request.environ[_STREAMED] = True

    def _answer_behind_requests(self) -> None:
        """Answer also what a streamed response or a teardown function raises.

        By then the response was begun: the server is told to begin another one, and raises the
        error if it has sent something already. So do the clients of tests.
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
        log.warning("a request is answered 503: %s", error, extra=about("answered_503"))
        return ()

    def _answer_to(self, error: NotAvailableError) -> ServiceUnavailable:
        log.warning("a request is answered 503: %s", error, extra=about("answered_503"))
        unavailable = ServiceUnavailable(retry_after=self._retry_after)
        unavailable.__cause__ = error
        return unavailable

    def _has_handler(self, error: Exception) -> bool:
        """Tell whether the application handles an error of this kind, and not just any."""
        kinds = type(error).__mro__
        kinds = kinds[: kinds.index(Exception)]
        handlers = self._app.error_handler_spec
        return any(
            kind in handlers.get(name, {}).get(None, {})
            for name in (*request.blueprints, None)
            for kind in kinds
        )
