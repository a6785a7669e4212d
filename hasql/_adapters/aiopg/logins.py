"""The logins of an aiopg pool: the user and password, and the settings that a login names."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import psycopg2

from hasql._adapters.aiopg.connection import count_rows
from hasql._adapters.libpq import parameters_of_pool
from hasql._adapters.psycopg2.parameters import is_of_libpq
from hasql._adapters.reserved_session import is_about_settings
from hasql._adapters.session_setup import answered, set_up
from hasql.driver.session_settings import ALL_MADE, SessionSettings, SettingsMade

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiopg

    from hasql.driver import Endpoint
    from hasql.driver.endpoint import Login

__all__ = ("PoolLogins",)

_T = TypeVar("_T")


class _Naming(NamedTuple):
    """What a task's login names."""

    login: Login | None
    #: The settings that it names: not all of them if a login with more was refused.
    settings: SessionSettings


#: A context variable, because aiopg's pool itself connects, in the same task, somewhere below
#: `PoolLogins.connect`.
_naming: ContextVar[_Naming | None] = ContextVar("hasql_aiopg_naming", default=None)


class PoolLogins:
    """How the connections of one pool log in and get their settings."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._settings = endpoint.settings
        #: For a connect by a task that takes a connection from aiopg's pool directly.
        self._usual = _Naming(None, self._settings)

    async def connect(self, log_in: Callable[[], Awaitable[_T]]) -> _T:
        """Log in with the settings, or if those may be why it is refused, with fewer or none."""
        logins = self._endpoint.logins
        if logins is not None:
            self._usual = _Naming(await logins.login(), self._settings)
        elif not self._settings:
            return await log_in()
        naming = self._usual
        while True:
            try:
                return await self._connect(log_in, naming)
            except psycopg2.OperationalError as error:
                if not naming.settings or not is_about_settings(error):
                    raise
                fewer = naming.settings.before_refused(str(error))
            naming = _Naming(naming.login, fewer)

    async def _connect(self, log_in: Callable[[], Awaitable[_T]], naming: _Naming) -> _T:
        token = _naming.set(naming)
        try:
            return await log_in()
        finally:
            _naming.reset(token)

    def parameters(self, given: dict[str, str]) -> dict[str, str]:
        """Return the parameters for libpq, made from those that it would get without hasql."""
        naming = _naming.get() or self._usual
        named = parameters_of_pool(given, is_of_libpq)
        if naming.settings:
            self._settings.check(given, "the DSN or pool_factory_kwargs")
            named["options"] = naming.settings.as_options(given.get("options"))
        if naming.login is not None:
            named["password"] = naming.login.password
            named |= {} if naming.login.user is None else {"user": naming.login.user}
        return named

    async def set_up(self, connection: aiopg.Connection) -> SettingsMade:
        """Make the settings of a new connection, as far as its login has not."""
        if not self._settings:
            return ALL_MADE
        naming = _naming.get() or self._usual
        pid = connection.raw.get_backend_pid()
        steps = set_up(self._settings, pid, taken=naming.settings is self._settings)
        return await answered(steps, partial(count_rows, connection))
