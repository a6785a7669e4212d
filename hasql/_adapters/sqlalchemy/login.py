"""The login of a reserved connection, in which listeners to `do_connect` have their say.

SQLAlchemy's documentation has an application bring passwords that way that are made anew each time.
Those that listen to all engines (`sqlalchemy.Engine`) are asked here as for any connection.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.util import greenlet_spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import URL

    from hasql._adapters.sqlalchemy.beneath import Beneath
    from hasql.driver import Session

__all__ = ("open_session",)

#: Where to connect is for the DSN to say, also where a listener has been told.
_ROUTING = frozenset({"host", "hostaddr", "port"})


async def open_session(
    beneath: Beneath,
    dsn: str,
    url: URL,
    connect_args: Mapping[str, Any],
    on_lost: Callable[[], None],
) -> Session:
    """Open a reserved connection over the library beneath."""
    dialect = beneath.dialect(dbapi=beneath.dialect.import_dbapi())  # type: ignore[call-arg]
    if not dialect.dispatch.do_connect:
        return await beneath.open_session(dsn, connect_args, on_lost)
    positional, of_url = dialect.create_connect_args(url)
    arguments: dict[str, Any] = {**of_url, **connect_args}
    creator = partial(beneath.connect, dsn, on_closed=lambda _: None)
    arguments["async_creator_fn"] = lambda *_, **kwargs: creator(kwargs=kwargs)

    def ask_listeners() -> Any:
        for listener in dialect.dispatch.do_connect:
            connection = listener(dialect, None, positional, arguments)
            if connection is not None:
                return dialect.get_driver_connection(connection)
        return None

    raw = await greenlet_spawn(ask_listeners)
    if raw is not None:  # it has logged in by itself
        return await beneath.session_of(raw, on_lost)
    del arguments["async_creator_fn"]
    login = {name: value for name, value in arguments.items() if name not in _ROUTING}
    return await beneath.open_session(dsn, login, on_lost)
