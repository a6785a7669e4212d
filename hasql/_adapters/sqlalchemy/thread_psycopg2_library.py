"""psycopg2, as SQLAlchemy uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy.dialects.postgresql.psycopg2 import dialect

from hasql._adapters.psycopg import failure as of_psycopg
from hasql._adapters.psycopg2.failure import failure_of, sqlstate_of
from hasql._adapters.psycopg2.library import Psycopg2Library
from hasql._adapters.psycopg2.parameters import OF_LIBPQ, is_of_libpq
from hasql._adapters.sqlalchemy.query import not_text
from hasql._adapters.sqlalchemy.thread_library import EngineThreadLibrary
from hasql.driver import check_keywords
from hasql.driver.arguments import ROUTING, refuse_keywords
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hasql.driver import Failure, Session

__all__ = ("LIBRARY",)

_FACTORIES = ("connection_factory", "cursor_factory")


class Psycopg2EngineLibrary(Psycopg2Library, EngineThreadLibrary):
    """psycopg2 beneath an engine; probes use psycopg."""

    dialect = dialect
    sqlstate_of = staticmethod(sqlstate_of)
    #: libpq itself reads all other parameters in the DSN.
    url_arguments: Mapping[str, Callable[[str], Any]] = dict.fromkeys(_FACTORIES, not_text)

    def check_connect_args(self, kwargs: Mapping[str, Any]) -> None:
        refuse_keywords(kwargs, ROUTING, "connect_args: hasql takes no argument {!r}")
        known = {name for name in kwargs if is_of_libpq(name)} | OF_LIBPQ | {*_FACTORIES}
        check_keywords(kwargs, known, "psycopg2.connect, by connect_args,")

    def failure_of(self, error: BaseException) -> Failure:
        if isinstance(error, psycopg.Error):
            return of_psycopg.failure_of(error)
        return failure_of(error)

    async def session_of(self, raw: Any, on_lost: Callable[[], None]) -> Session:
        del on_lost
        raw.close()
        raise ConfigurationError(
            "a do_connect listener opened a connection itself: over psycopg2 hasql cannot probe "
            "over such a connection; have the listener change the arguments instead"
        )


LIBRARY = Psycopg2EngineLibrary()
