"""Logging in over asyncpg: with which arguments, parameters and settings."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg

from hasql._adapters.asyncpg.connection import failure_of, naming_files
from hasql._adapters.asyncpg.session import AsyncpgSession, ErrorRetrievingLoop
from hasql._adapters.reserved_session import SETTINGS, login_words, with_settings_if_taken
from hasql.cluster.dsn import Dsn
from hasql.driver.addressed_loop import AddressedLoop
from hasql.driver.connects import discard_if_cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hasql._adapters.asyncpg.connection import RawConnection
    from hasql.driver import Endpoint

__all__ = ("connect_by", "open_session", "terminate_addressed", "without_choice")

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


async def connect_by(
    endpoint: Endpoint, connect: Callable[..., Any], kwargs: Mapping[str, Any]
) -> tuple[RawConnection, str | None]:
    """Connect to a host, and return the address that this has led to as well.

    The address is None where a `connect` of the application's goes another way, by a tunnel say.
    """
    running = kwargs.get("loop") or asyncio.get_running_loop()

    async def dial(address: str | None) -> tuple[RawConnection, str | None]:
        loop = AddressedLoop(running, endpoint.host.host, address)
        return await connect(**{**kwargs, "loop": loop}), loop.address

    return await endpoint.connect(dial, failure_of, terminate_addressed)


def terminate_addressed(connected: tuple[RawConnection, str | None]) -> None:
    """End what `connect_by` has made, and nobody waits for."""
    asyncpg.Connection.terminate(connected[0])


async def open_session(
    endpoint: Endpoint,
    kwargs: Mapping[str, Any],
    connect: Callable[..., Any],
    on_lost: Callable[[], None],
) -> AsyncpgSession:
    """Open a reserved connection, by the function that opens the application's connections."""
    arguments = {name: value for name, value in kwargs.items() if name in _ARGUMENTS}
    # asyncpg's pool gives these two as well; the application's own classes are for what it leases.
    arguments |= {"connection_class": asyncpg.Connection, "record_class": asyncpg.Record}
    arguments["loop"] = ErrorRetrievingLoop(asyncio.get_running_loop())
    parsed, given = Dsn.parse(endpoint.dsn), kwargs.get("server_settings") or {}

    async def log_in(*, with_settings: bool) -> tuple[RawConnection, str | None]:
        settings = SETTINGS if with_settings else {}
        of_session = _dsn_of_session(parsed, given, settings).for_host(parsed.hosts[0])
        connecting = connect_by(endpoint, partial(connect, of_session), arguments)
        with naming_files(endpoint.dsn):
            return await discard_if_cancelled(connecting, terminate_addressed)

    (connection, address), _ = await with_settings_if_taken(log_in, asyncpg.PostgresError)
    return AsyncpgSession(connection, on_lost, address)


def _dsn_of_session(dsn: Dsn, given: Mapping[str, str], settings: Mapping[str, str]) -> Dsn:
    params = {**dict(dsn.params), **given}
    kept = {name: value for name, value in params.items() if name in _PARAMETERS}
    if words := login_words(params.get("options", "")):
        kept["options"] = words
    return replace(dsn, params=(*{**kept, **settings}.items(), _NO_CHOICE))
