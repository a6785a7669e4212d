"""SQLAlchemy engines whose connections go where a name leads now."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import ReferenceType, WeakValueDictionary

from hasql.dns.dialled_name import DialledName, name_in, set_addresses, set_addresses_async
from hasql.dns.resolver import Resolver, shared_resolver
from hasql.dns.settings import ResolverSettings
from hasql.errors import ConfigurationError, MissingExtraError

try:
    from sqlalchemy import create_engine, event
    from sqlalchemy.exc import DisconnectionError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.util import await_only
except ImportError as error:
    raise MissingExtraError(
        "an engine that follows a name needs SQLAlchemy 2: pip install 'hasql[dns,sqlalchemy]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import URL, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from hasql.dns.followed_name import FollowedName

__all__ = ("get_async_dns_engine", "get_dns_engine")

#: The key in SQLAlchemy's record of a connection under which its `DialledName` is kept.
_KEY = "hasql.dns"
#: Arguments that open connections by themselves, and what to give the engine instead.
_OPENERS = {
    "creator": "leave it out and put what it gives the driver into connect_args",
    "async_creator": "leave it out and put what it gives the driver into connect_args",
    "async_creator_fn": "leave it out and put what it gives the driver into connect_args",
    "pool": "give poolclass, pool_size and the other pool_… arguments instead",
}


def get_dns_engine(  # noqa: PLR0913 - independent options, all by name
    uri: str | URL,
    *engine_args: Any,
    dns_timeout: float = 12,
    dns_nameservers: Sequence[str] | None = None,
    dns_grace_ttl: float = 30,
    dns_fallback: bool = True,
    dns_max_retries: int = 3,
    dns_extend_grace: bool = True,
    **engine_kwargs: Any,
) -> Engine:
    """Make an engine as `sqlalchemy.create_engine` does, but one that follows its host's name.

    If the name has left the address of a pooled connection, that connection is replaced at its
    checkout, by SQLAlchemy's own retry. The name is looked up in the background when its TTL ends,
    so that no checkout waits for DNS. A pooled connection is never refused because DNS fails.

    Drivers keep the name, and TLS is checked against it: psycopg and psycopg2 are given
    ``hostaddr`` beside it, pg8000 a socket, asyncpg an event loop. Of several addresses the first
    one that answers is used. Any other driver looks the name up itself, as usual; its connection is
    replaced when the name has left all addresses that it had when the connection was opened.

    A host that is an address, a Unix socket or a list is left to the driver, as in any engine. So
    is a host that the driver finds elsewhere, in a service file or the environment.

    This function opens no connection and looks no name up. The following of the name ends when the
    engine is collected. Your own ``do_connect`` listeners run first: the host that they set is
    followed, and a connection that they open themselves is left alone.

    Args:
        uri: The database's URL.
        engine_args: Passed on to `create_engine`.
        dns_timeout: How many seconds one attempt to ask a nameserver may take.
        dns_nameservers: The nameservers to ask, such as ``"10.0.0.2:5353"``; None: the system's.
        dns_grace_ttl: For how many seconds after its TTL an old answer serves new connections while
            no nameserver gives a valid one.
        dns_fallback: Whether the system's resolver is asked when DNS fails and no old answer may
            serve.
        dns_max_retries: How many attempts one look-up has in all.
        dns_extend_grace: Whether the grace time doubles with each failure in a row, to at most
            300 s.
        engine_kwargs: Passed on to `create_engine`.

    Raises:
        ConfigurationError: A ``creator`` is given, which would open connections by itself, or a
            ``pool``, which has one; or a setting is impossible. It is a `ValueError`.
        MissingExtraError: SQLAlchemy or dnspython is not installed.

    When nothing is known of the name, connecting raises `NameResolutionError`, which SQLAlchemy
    does not wrap. It is an `OSError`.
    """
    _refuse_openers(engine_kwargs)
    settings = ResolverSettings.checked(
        timeout=dns_timeout,
        nameservers=dns_nameservers,
        grace_ttl=dns_grace_ttl,
        fallback=dns_fallback,
        max_retries=dns_max_retries,
        extend_grace=dns_extend_grace,
        prefix="dns_",
    )
    engine = create_engine(uri, *engine_args, **engine_kwargs)
    _EngineNames(shared_resolver(settings)).follow_for(engine)
    return engine


def get_async_dns_engine(  # noqa: PLR0913 - independent options, all by name
    uri: str | URL,
    *engine_args: Any,
    dns_timeout: float = 12,
    dns_nameservers: Sequence[str] | None = None,
    dns_grace_ttl: float = 30,
    dns_fallback: bool = True,
    dns_max_retries: int = 3,
    dns_extend_grace: bool = True,
    **engine_kwargs: Any,
) -> AsyncEngine:
    """Make an engine as `create_async_engine` does, but one that follows its host's name.

    The driver is asyncpg or psycopg. Arguments and errors are those of `get_dns_engine`; an
    ``async_creator`` is refused as well.
    """
    _refuse_openers(engine_kwargs)
    settings = ResolverSettings.checked(
        timeout=dns_timeout,
        nameservers=dns_nameservers,
        grace_ttl=dns_grace_ttl,
        fallback=dns_fallback,
        max_retries=dns_max_retries,
        extend_grace=dns_extend_grace,
        prefix="dns_",
    )
    engine = create_async_engine(uri, *engine_args, **engine_kwargs)
    _EngineNames(shared_resolver(settings)).follow_for(engine.sync_engine)
    return engine


def _refuse_openers(kwargs: dict[str, Any]) -> None:
    given = {**(kwargs.get("connect_args") or {}), **kwargs}
    for name, remedy in _OPENERS.items():
        if given.get(name) is not None:
            raise ConfigurationError(
                f"{name!r} opens connections itself, so hasql could not follow the name: {remedy}"
            )


#: The place in a pool for which this thread or task opens a connection. The reference is weak, so
#: that it does not keep the place alive.
_CONNECTING: ContextVar[ReferenceType[ConnectionPoolEntry] | None]
_CONNECTING = ContextVar("connecting", default=None)


class _EngineNames:
    """The names that one engine follows: one, unless the user's listeners change the host.

    SQLAlchemy's events and the engine's dialect refer to this object, and it refers to neither the
    engine nor the pool. So it is collected after them, and the names are then no longer followed.
    """

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._followed: dict[str, FollowedName] = {}
        #: By the connection's `id`, for pings, which know nothing but the connection.
        self._by_connection: WeakValueDictionary[int, DialledName] = WeakValueDictionary()

    def follow_for(self, engine: Engine) -> None:
        """Follow names for an engine: attach to its events and its dialect."""
        event.listen(engine, "do_connect", _note_place)
        event.listen(engine.pool, "checkout", self.check)
        # The dialect is this engine's alone.
        self._dial_for(engine.dialect)
        self._check_before_pings(engine.dialect)

    def check(
        self, _: DBAPIConnection, record: ConnectionPoolEntry, __: PoolProxiedConnection
    ) -> None:
        """Refuse a connection to an address that its name no longer leads to.

        SQLAlchemy then opens a new connection, once. If the name has moved again meanwhile, the new
        connection is accepted all the same, because SQLAlchemy would raise an error otherwise.
        """
        dialled = record.info.get(_KEY)
        if dialled is None:
            return
        skips_check, dialled.skips_check = dialled.skips_check, False
        if dialled.has_left() and not skips_check:
            self._refuse(dialled, record.driver_connection)

    def _dial_for(self, dialect: Dialect) -> None:
        """Make the dialect tell its driver which address to dial, after all listeners have run.

        A listener to `do_connect` could not do this: SQLAlchemy before 2.1 passes arguments that a
        listener sets to the connects of other threads as well.
        """
        connect = dialect.connect

        def dial(*cargs: Any, **cparams: Any) -> DBAPIConnection:
            noted = _CONNECTING.get()
            place = None if noted is None else noted()
            host = None if any(cargs) else name_in(dialect.driver, cparams)
            if host is None or place is None:
                return connect(*cargs, **cparams)
            followed = self._follow(host)
            if dialect.is_async:
                dialled = await_only(set_addresses_async(dialect.driver, cparams, followed))
            else:
                dialled = set_addresses(dialect.driver, cparams, followed, dialect.loaded_dbapi)
            # pg8000's `connect` takes no socket, but the class of its connections does.
            by_socket = dialect.driver == "pg8000"
            opener = dialect.loaded_dbapi.Connection if by_socket else connect
            try:
                connection: DBAPIConnection = opener(*cargs, **cparams)
            except BaseException as error:
                dialled.abort()
                if isinstance(error, Exception):
                    self._resolver.expire(host)  # the name may have moved before its TTL ends
                raise
            dialled.note_connected(dialect.get_driver_connection(connection))
            dialled.note_place(_kept_with(place))
            self._by_connection[id(connection)] = place.info[_KEY] = dialled
            return connection

        dialect.connect = dial  # type: ignore[method-assign]  # of this one object

    def _check_before_pings(self, dialect: Dialect) -> None:
        """Make a ping refuse the connections that `check` would refuse.

        The ping comes before `check`, and would wait for a host that is gone. SQLAlchemy has no
        event before the ping.
        """
        ping = dialect.do_ping

        def do_ping(dbapi_connection: DBAPIConnection) -> bool:
            dialled = self._by_connection.get(id(dbapi_connection))
            if dialled is not None and dialled.has_left():
                self._refuse(dialled, dialect.get_driver_connection(dbapi_connection))
            return ping(dbapi_connection)

        dialect.do_ping = do_ping  # type: ignore[method-assign]  # of this one object

    def _refuse(self, dialled: DialledName, driver_connection: Any) -> NoReturn:
        dialled.note_refused()
        if dialled.driver == "asyncpg":
            # SQLAlchemy would close the connection gracefully, and wait two seconds for a server
            # that is gone.
            driver_connection.terminate()
        raise DisconnectionError(
            f"{dialled.host} does not lead to {', '.join(dialled.addresses)} any more"
        )

    def _follow(self, host: str) -> FollowedName:
        followed = self._followed.get(host)
        if followed is None:
            # Two threads may get here at once. `setdefault` keeps the first one's; the other
            # thread closes its own.
            new = self._resolver.follow(host)
            followed = self._followed.setdefault(host, new)
            if followed is not new:
                new.close()
        return followed


def _note_place(_: Dialect, place: ConnectionPoolEntry, *__: object) -> None:
    """Note the place in the pool for which SQLAlchemy connects; returning None lets it go on."""
    _CONNECTING.set(ReferenceType(place))


def _kept_with(place: ConnectionPoolEntry) -> dict[Any, Any]:
    """Return the values kept with a place in the pool across the connections it has had."""
    kept = place.record_info
    return {} if kept is None else kept
