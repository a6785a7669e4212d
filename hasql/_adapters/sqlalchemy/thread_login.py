"""The arguments of a login; listeners to `do_connect` may change them, or connect by themselves.

SQLAlchemy's documentation recommends such a listener to add a password that is made anew for each
login. Listeners may have to wait for that password, so they are called in a thread that may wait.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hasql._adapters.psycopg.login import open_session as open_psycopg_session
from hasql.driver.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import URL
    from sqlalchemy.engine import Dialect

    from hasql._adapters.sqlalchemy.thread_library import EngineThreadLibrary
    from hasql.driver import Endpoint, Session

__all__ = ("LoginArguments", "open_session")

#: Arguments that listeners see, but that the library is not given: the DSN says where to connect.
_ROUTING = frozenset({"host", "hostaddr", "port"})


class LoginArguments:
    """The arguments of the library's `connect`, for the connections of one engine."""

    def __init__(self, dialect: Dialect, url: URL, connect_args: Mapping[str, Any]) -> None:
        self._dialect = dialect
        positional, of_url = dialect.create_connect_args(url)
        self._positional = list(positional)
        self._arguments: dict[str, Any] = {**of_url, **connect_args}

    def ask(self) -> tuple[Any, dict[str, Any]]:
        """Call the listeners; return a connection of theirs, if there is one, and the arguments."""
        arguments = dict(self._arguments)
        for listener in self._dialect.dispatch.do_connect:
            connection = listener(self._dialect, None, list(self._positional), arguments)
            if connection is not None:
                return connection, arguments
        return None, {name: v for name, v in arguments.items() if name not in _ROUTING}


async def open_session(
    library: EngineThreadLibrary,
    endpoint: Endpoint,
    url: URL,
    connect_args: Mapping[str, Any],
    on_lost: Callable[[], None],
) -> Session:
    """Open a reserved connection. Listeners to all engines are called as for any other."""
    dialect: Dialect = library.dialect(dbapi=library.dialect.import_dbapi())  # type: ignore[call-arg]
    if not dialect.dispatch.do_connect:
        return await open_psycopg_session(endpoint, library.login_arguments(connect_args), on_lost)
    ask = LoginArguments(dialect, url, connect_args).ask
    raw, arguments = await asyncio.wrap_future(in_thread(ask, "hasql login", _close))
    if raw is not None:  # a listener has logged in by itself
        return await library.session_of(raw, on_lost)
    return await open_psycopg_session(endpoint, library.login_arguments(arguments), on_lost)


def _close(asked: tuple[Any, object]) -> None:
    if asked[0] is not None:
        asked[0].close()
