"""Logging in over asyncpg: the arguments, parameters and settings of a login."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import asyncpg

from hasql._adapters.asyncpg.connection import count_rows, failure_of
from hasql._adapters.asyncpg.named_files import naming_files
from hasql._adapters.asyncpg.session import AsyncpgSession, ErrorRetrievingLoop
from hasql._adapters.reserved_session import SETTINGS, proxy_options, with_settings_if_taken
from hasql._adapters.session_setup import Setup, WithSettings
from hasql.cluster.dsn import Dsn
from hasql.driver.addressed_loop import AddressedLoop
from hasql.driver.connects import discard_if_cancelled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from hasql._adapters.asyncpg.connection import RawConnection
    from hasql.driver import Endpoint
    from hasql.driver.session_settings import SessionSettings

    Addressed = tuple[RawConnection, str | None]

__all__ = (
    "connect_by",
    "connect_for_pool",
    "open_session",
    "terminate_addressed",
    "terminate_opened",
    "without_choice",
)

#: The arguments of asyncpg, and the parameters of a DSN, that say who logs in, and how. asyncpg
#: sends all other parameters of a DSN to the server as settings.
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
#: Goes into the DSN: the user's `connect` may take only the arguments that asyncpg gives it.
_NO_CHOICE = ("target_session_attrs", "any")


def without_choice(dsn: str, settings: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the DSN of a host, such that no environment variable can ask for a role.

    asyncpg sends the parameters that it does not know to the server as settings, except empty ones.
    """
    parsed = Dsn.parse(dsn)
    params = {**dict(parsed.params), **settings}
    return replace(parsed, params=(*params.items(), _NO_CHOICE)).for_host(parsed.hosts[0])


def with_empty_settings(
    dsn: str, settings: Mapping[str, str], kwargs: Mapping[str, Any]
) -> tuple[dict[str, str], Mapping[str, Any]]:
    """Return settings for the DSN, and asyncpg's arguments, such that empty settings are sent too.

    Empty settings go as command-line options of the server, after the application's own options.
    """
    empty = [f"-c {name}=" for name, value in settings.items() if not value]
    if not empty:
        return {**settings}, kwargs
    full = {name: value for name, value in settings.items() if value}
    given = kwargs.get("server_settings") or {}
    own = given.get("options") or dict(Dsn.parse(dsn).params).get("options")
    options = " ".join([own, *empty] if own else empty)
    if "options" in given:  # asyncpg prefers these to the DSN's
        return full, {**kwargs, "server_settings": {**given, "options": options}}
    return {**full, "options": options}, kwargs


async def connect_for_pool(
    endpoint: Endpoint, connect: Callable[..., Any], kwargs: Mapping[str, Any]
) -> WithSettings[Addressed]:
    """Open a connection for the application's pool, with the settings of that pool."""
    endpoint = await endpoint.for_login()
    kwargs = endpoint.arguments(kwargs)
    if endpoint.settings:
        endpoint.settings.check(dict(Dsn.parse(endpoint.dsn).params), "the DSN")
        endpoint.settings.check(kwargs.get("server_settings") or {}, "server_settings")

    def log_in(settings: SessionSettings) -> Awaitable[Addressed]:
        made, arguments = with_empty_settings(endpoint.dsn, settings.parameters, kwargs)
        dsn = without_choice(endpoint.dsn, made)
        return connect_by(endpoint, partial(connect, dsn), arguments)

    setup: Setup[Addressed] = Setup(
        log_in,
        asyncpg.PostgresError,
        lambda opened: asyncpg.Connection.get_server_pid(opened[0]),
        lambda opened, sql: count_rows(opened[0], sql),
        terminate_addressed,
    )
    return await setup.open(endpoint.settings)


async def connect_by(
    endpoint: Endpoint, connect: Callable[..., Any], kwargs: Mapping[str, Any]
) -> Addressed:
    """Connect to a host, and return the connection with the address that was reached.

    The address is None if the application's `connect` goes another way, such as by a tunnel.
    """
    running = kwargs.get("loop") or asyncio.get_running_loop()

    async def dial(address: str | None) -> Addressed:
        loop = AddressedLoop(running, endpoint.host.host, address)
        try:
            return await connect(**{**kwargs, "loop": loop}), loop.address
        except BaseException:
            loop.abort()
            raise

    return await endpoint.connect(dial, failure_of, terminate_addressed)


def terminate_addressed(connected: Addressed) -> None:
    """Terminate a connection of `connect_by` that no caller waits for any more."""
    asyncpg.Connection.terminate(connected[0])


def terminate_opened(opened: WithSettings[Addressed]) -> None:
    """Terminate a connection of `connect_for_pool` that no caller waits for any more."""
    terminate_addressed(opened.connection)


def is_opened_still(opened: WithSettings[Addressed]) -> bool:
    """Tell whether a connection of `connect_for_pool` is still open."""
    return not opened.connection[0].is_closed()


async def open_session(
    endpoint: Endpoint,
    kwargs: Mapping[str, Any],
    connect: Callable[..., Any],
    on_lost: Callable[[], None],
) -> AsyncpgSession:
    """Open a reserved connection with the function that opens the application's connections."""
    endpoint = await endpoint.for_login()
    kwargs = endpoint.arguments(kwargs)
    arguments = {name: value for name, value in kwargs.items() if name in _ARGUMENTS}
    # asyncpg's pool gives these two as well. The application's own classes are for its leases.
    arguments |= {"connection_class": asyncpg.Connection, "record_class": asyncpg.Record}
    arguments["loop"] = ErrorRetrievingLoop(asyncio.get_running_loop())
    parsed, given = Dsn.parse(endpoint.dsn), kwargs.get("server_settings") or {}

    async def log_in(*, with_settings: bool) -> Addressed:
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
    if options := proxy_options(params.get("options", "")):
        kept["options"] = options
    return replace(dsn, params=(*{**kept, **settings}.items(), _NO_CHOICE))
