"""The end of requests and app contexts: transactions end, connections are given back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from click import get_current_context
from flask import got_request_exception, has_request_context, request, request_finished

from hasql.contrib.flask.context_leases import leases_here
from hasql.contrib.flask.unavailable import UnavailableAnswers

if TYPE_CHECKING:
    from flask import Flask, Response

    from hasql.contrib.flask.context_leases import ContextLeases

__all__ = ("RequestEnds",)

_ERROR: Final = "hasql.error"
"""Where in a request's WSGI environment stands what it has raised."""
_SERVER_ERROR: Final = 500


class RequestEnds:
    """Listens to one application, and ends what its requests have begun."""

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
        """Learn of each exception of a view, also of those that an error handler makes well of.

        There is no signal for those. The method is one that an application may replace.
        """
        handle = self._unavailable.handle

        def watching(*args: Any) -> Any:
            self._raised(args[-1])
            return handle(*args)

        app.handle_user_exception = watching  # type: ignore[assignment, method-assign]  # as above

    def _note_exception(self, _: Flask, exception: BaseException, **_others: Any) -> None:
        """Take note of what was raised where nothing handles it: after the view, for one."""
        self._raised(exception)

    def _raised(self, error: BaseException) -> None:
        """Undo at once what a request did that has raised, before anybody handles that."""
        if has_request_context():
            request.environ[_ERROR] = error
        leases = leases_here()
        if leases is not None:
            leases.error = error
            leases.drop_lost(error)
            leases.rollback()

    # Ends

    def _finish(self, _: Flask, response: Response, **_others: Any) -> None:
        """End the request's transactions: all functions have seen the response, nobody got it.

        What this raises is a 500 by Flask's own means.
        """
        leases = leases_here()
        if leases is None:
            return
        if _ERROR in request.environ or response.status_code >= _SERVER_ERROR:
            leases.rollback()
        else:
            leases.commit()

    def _end_request(self, error: BaseException | None) -> None:
        """Roll back what was interrupted. The app context may go on, as those of tests do."""
        leases = leases_here()
        if leases is None:
            return
        raised = request.environ.pop(_ERROR, None) or error
        if raised is not None:
            leases.drop_lost(raised)
            leases.rollback()
        leases.drop_lost(None)
        leases.forget_losses()

    def _guard_end(self, app: Flask) -> None:
        """Give back also where a teardown function raises: Flask then calls none of the others."""
        end = app.do_teardown_appcontext

        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                end(*args, **kwargs)
            finally:
                leases = leases_here()
                if leases is not None:
                    leases.give_back(sys.exc_info()[1])

        app.do_teardown_appcontext = guarded  # type: ignore[method-assign]  # for that alone

    def _end_context(self, error: BaseException | None) -> None:
        """End what was begun outside of a request, or after it, and give all back."""
        leases = leases_here()
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
    """Return what ends a command half way, where its app context is not told of that.

    click before 8.3 closes what a command has opened as if all were well.
    """
    passing = sys.exc_info()[1]
    if passing is None or passing is leases.handled or get_current_context(silent=True) is None:
        return None
    return passing
