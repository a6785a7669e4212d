"""The logins over asyncpg: where they go, and what they bring."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg

from hasql._adapters.asyncpg.connection import naming_files
from hasql._adapters.asyncpg.session import AsyncpgSession, HeedingLoop
from hasql._adapters.reserved import SETTINGS, login_words, refuses
from hasql.cluster.dsn import Dsn
from hasql.driver.connects import left_to_end

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hasql._adapters.asyncpg.connection import RawConnection

__all__ = ("open_session", "without_choice")

#: What says who logs in, and how, of asyncpg's arguments and in a DSN. Whatever else a DSN holds
#: asyncpg sends to the server as a setting.
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
#: In the DSN, as a `connect` of the user's own may take no more arguments than asyncpg gives it.
_NO_CHOICE = ("target_session_attrs", "any")


def without_choice(dsn: str) -> str:
    """Return the DSN of a host, with which the environment does not choose among roles."""
    parsed = Dsn.parse(dsn)
    return replace(parsed, params=(*parsed.params, _NO_CHOICE)).for_host(parsed.hosts[0])


async def open_session(
    dsn: str, kwargs: Mapping[str, Any], connect: Callable[..., Any], on_lost: Callable[[], None]
) -> AsyncpgSession:
    """Open a reserved connection by what opens the application's."""
    arguments = {name: value for name, value in kwargs.items() if name in _ARGUMENTS}
    # What asyncpg's pool gives, too; but the application's classes are for what it is lent.
    arguments |= {"connection_class": asyncpg.Connection, "record_class": asyncpg.Record}
    arguments["loop"] = HeedingLoop(asyncio.get_running_loop())
    parsed, given = Dsn.parse(dsn), kwargs.get("server_settings") or {}

    async def log_in(settings: Mapping[str, str]) -> RawConnection:
        of_session = _of_session(parsed, given, settings).for_host(parsed.hosts[0])
        connecting = connect(of_session, **arguments)
        with naming_files(dsn):
            connection: RawConnection = await left_to_end(connecting, asyncpg.Connection.terminate)
        return connection

    try:
        connection = await log_in(SETTINGS)
    except asyncpg.PostgresError as error:
        if not refuses(error):
            raise
        connection = await log_in({})
    return AsyncpgSession(connection, on_lost)


def _of_session(dsn: Dsn, given: Mapping[str, str], settings: Mapping[str, str]) -> Dsn:
    params = {**dict(dsn.params), **given}
    kept = {name: value for name, value in params.items() if name in _PARAMETERS}
    if words := login_words(params.get("options", "")):
        kept["options"] = words
    return replace(dsn, params=(*{**kept, **settings}.items(), _NO_CHOICE))
