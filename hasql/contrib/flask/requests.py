"""Ends transactions and gives connections back when requests and app contexts end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from click import get_current_context
from flask import got_request_exception, has_request_context, request, request_finished

from hasql.contrib.flask.context_leases import current_leases
from hasql.contrib.flask.unavailable import UnavailableAnswers

if TYPE_CHECKING:
    from flask import Flask, Response

    from hasql.contrib.flask.context_leases import ContextLeases

__all__ = ("RequestEnds",)

_ERROR: Final = "hasql.error"
"""The key in a request's WSGI environment of the exception that it has raised."""
_SERVER_ERROR: Final = 500


class RequestEnds:
    """Listens to one application, and ends the transactions and leases of its requests."""

    def __init__(self, app: Flask, retry_after: int) -> None:
        self._unavailable = UnavailableAnswers(app, retry_after)
        self._watch_exceptions(app)
        request_finished.connect(self._finish, app)
        got_request_exception.connect(self._note_exception, app)
        app.teardown_request(self._end_request)
        app.teardown_appcontext(self._end_context)
        self._guard_end(app)

    # What a request raises

    def _watch_exceptions(self, app: Flask) -> None:
        """Learn of each exception of a view, even if an error handler turns it into a response.

        Flask has no signal for handled exceptions. It allows applications to replace the method
        `handle_user_exception`.
        """
        handle = self._unavailable.handle

        def watching(*args: Any) -> Any:
            self._raised(args[-1])
            return handle(*args)

        app.handle_user_exception = watching  # type: ignore[assignment, method-assign]  # see above

    def _note_exception(self, _: Flask, exception: BaseException, **_others: Any) -> None:
        """Note an exception that no handler has seen, for example one raised after the view."""
        self._raised(exception)

    def _raised(self, error: BaseException) -> None:
        """Roll back at once when a request has raised, before an error handler runs."""
        if has_request_context():
            request.environ[_ERROR] = error
        leases = current_leases()
        if leases is not None:
            leases.error = error
            leases.drop_lost(error)
            leases.rollback()

    # Ends

    def _finish(self, _: Flask, response: Response, **_others: Any) -> None:
        """End the request's transactions, when the response is complete but not yet sent.

        Flask turns an exception raised here into a 500.
        """
        leases = current_leases()
        if leases is None:
            return
        if _ERROR in request.environ or response.status_code >= _SERVER_ERROR:
            leases.rollback()
        else:
            leases.commit()

    def _end_request(self, error: BaseException | None) -> None:
        """Roll back if the request has raised. The app context may go on, as in tests."""
        leases = current_leases()
        if leases is None:
            return
        raised = request.environ.pop(_ERROR, None) or error
        if raised is not None:
            leases.drop_lost(raised)
            leases.rollback()
        leases.drop_lost(None)
        leases.forget_losses()

    def _guard_end(self, app: Flask) -> None:
        """Give back even if a teardown function raises, for Flask then skips the remaining ones."""
        end = app.do_teardown_appcontext

        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                end(*args, **kwargs)
            finally:
                leases = current_leases()
                if leases is not None:
                    leases.give_back(sys.exc_info()[1])

        app.do_teardown_appcontext = guarded  # type: ignore[method-assign]  # on purpose

    def _end_context(self, error: BaseException | None) -> None:
        """End transactions begun outside of requests or after them; give all connections back."""
        leases = current_leases()
        if leases is None:
            return
        if error is None:
            error = _ending_command(leases)
        try:
            if error is None:
                leases.commit()
            else:
                leases.rollback()
        finally:
            leases.give_back(error or sys.exc_info()[1])


def _ending_command(leases: ContextLeases) -> BaseException | None:
    """Return the exception that interrupts a command, if its app context is not told of it.

    Before version 8.3, click closes a command's resources as if no exception had been raised.
    """
    passing = sys.exc_info()[1]
    if passing is None or passing is leases.handled or get_current_context(silent=True) is None:
        return None
    return passing
