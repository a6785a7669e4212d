"""The login of a reserved connection, for which listeners to `do_connect` are called.

SQLAlchemy's documentation recommends such a listener to add a password that is made anew for each
login. Listeners to all engines (`sqlalchemy.Engine`) are called here as for any other connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.util import greenlet_spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import URL

    from hasql._adapters.sqlalchemy.library import DbapiLibrary
    from hasql.driver import Endpoint, Session

__all__ = ("open_session",)

#: Arguments that listeners see, but that the library is not given: the DSN says where to connect.
_ROUTING = frozenset({"host", "hostaddr", "port"})


async def open_session(
    library: DbapiLibrary,
    endpoint: Endpoint,
    url: URL,
    connect_args: Mapping[str, Any],
    on_lost: Callable[[], None],
) -> Session:
    """Open a reserved connection over the library beneath SQLAlchemy."""
    dialect = library.dialect(dbapi=library.dialect.import_dbapi())  # type: ignore[call-arg]
    if not dialect.dispatch.do_connect:
        return await library.open_session(endpoint, connect_args, on_lost)
    positional, of_url = dialect.create_connect_args(url)
    arguments: dict[str, Any] = {**of_url, **connect_args}

    async def create(*_: object, **kwargs: Any) -> Any:
        return (await library.connect(endpoint, kwargs, lambda _: None)).connection[0]

    arguments["async_creator_fn"] = create

    def ask_listeners() -> Any:
        for listener in dialect.dispatch.do_connect:
            connection = listener(dialect, None, positional, arguments)
            if connection is not None:
                return dialect.get_driver_connection(connection)
        return None

    raw = await greenlet_spawn(ask_listeners)
    if raw is not None:  # a listener has logged in by itself
        return await library.session_of(raw, on_lost)
    del arguments["async_creator_fn"]
    login = {name: value for name, value in arguments.items() if name not in _ROUTING}
    return await library.open_session(endpoint, login, on_lost)
