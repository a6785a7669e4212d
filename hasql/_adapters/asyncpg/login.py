"""Logging in over asyncpg: with which arguments, parameters and settings."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg

from hasql._adapters.asyncpg.connection import naming_files
from hasql._adapters.asyncpg.session import AsyncpgSession, ErrorRetrievingLoop
from hasql._adapters.reserved_session import SETTINGS, login_words, with_settings_if_taken
from hasql.cluster.dsn import Dsn
from hasql.driver.connects import discard_if_cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hasql._adapters.asyncpg.connection import RawConnection

__all__ = ("open_session", "without_choice")

#: Those of asyncpg's arguments, and of a DSN's parameters, that say who logs in, and how. What else
#: a DSN holds, asyncpg sends to the server as a setting.
_ARGUMENTS = frozenset(
    {
        "database",
        "direct_tls",
        "gsslib",
        "krbsrvname",
        "passfile",
        "password",
        "service",
        "servicefile",
        "ssl",
        "timeout",
        "user",
    }
)
_PARAMETERS = frozenset(
    {
        "application_name",
        "database",
        "gsslib",
        "krbsrvname",
        "passfile",
        "service",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslmode",
        "sslnegotiation",
        "sslpassword",
        "sslrootcert",
    }
)
#: Goes into the DSN: a `connect` of the user's may take no more arguments than asyncpg gives it.
_NO_CHOICE = ("target_session_attrs", "any")


def without_choice(dsn: str) -> str:
    """Return the DSN of a host, so that an environment variable cannot ask for a role."""
    parsed = Dsn.parse(dsn)
    return replace(parsed, params=(*parsed.params, _NO_CHOICE)).for_host(parsed.hosts[0])


async def open_session(
    dsn: str, kwargs: Mapping[str, Any], connect: Callable[..., Any], on_lost: Callable[[], None]
) -> AsyncpgSession:
    """Open a reserved connection, by the function that opens the application's connections."""
    arguments = {name: value for name, value in kwargs.items() if name in _ARGUMENTS}
    # asyncpg's pool gives these two as well; the application's own classes are for what it leases.
    arguments |= {"connection_class": asyncpg.Connection, "record_class": asyncpg.Record}
    arguments["loop"] = ErrorRetrievingLoop(asyncio.get_running_loop())
    parsed, given = Dsn.parse(dsn), kwargs.get("server_settings") or {}

    async def log_in(*, with_settings: bool) -> RawConnection:
        settings = SETTINGS if with_settings else {}
        of_session = _dsn_of_session(parsed, given, settings).for_host(parsed.hosts[0])
        connecting = connect(of_session, **arguments)
        terminate = asyncpg.Connection.terminate
        with naming_files(dsn):
            connection: RawConnection = await discard_if_cancelled(connecting, terminate)
        return connection

    connection, _ = await with_settings_if_taken(log_in, asyncpg.PostgresError)
    return AsyncpgSession(connection, on_lost)


def _dsn_of_session(dsn: Dsn, given: Mapping[str, str], settings: Mapping[str, str]) -> Dsn:
    params = {**dict(dsn.params), **given}
    kept = {name: value for name, value in params.items() if name in _PARAMETERS}
    if words := login_words(params.get("options", "")):
        kept["options"] = words
    return replace(dsn, params=(*{**kept, **settings}.items(), _NO_CHOICE))
