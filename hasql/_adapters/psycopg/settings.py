"""How a login by psycopg names the session settings of a pool's connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hasql.driver.session_settings import SessionSettings

__all__ = ("backend_pid", "naming")


def naming(
    settings: SessionSettings, conninfo: str, kwargs: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]]:
    """Return the connection string and the arguments of a connect, with these settings added.

    Raises ConfigurationError if the application gives one of the settings another value.
    """
    if not settings:
        return conninfo, kwargs
    given: dict[str, Any] = conninfo_to_dict(conninfo)
    settings.check(given, "the DSN")
    settings.check(kwargs, "the arguments of the pool's connections")
    if kwargs.get("options") is not None:
        return conninfo, {**kwargs, "options": settings.as_options(kwargs["options"])}
    return make_conninfo(conninfo, options=settings.as_options(given.get("options"))), kwargs


def backend_pid(opened: tuple[Any, str | None]) -> int:
    """Return the process id that the server told at the login."""
    pid: int = opened[0].pgconn.backend_pid
    return pid
