"""SQLAlchemy's engines, whose connections go where a name leads now."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import ReferenceType, WeakValueDictionary

from hasql.dns.dialled_name import DialledName, name_in, tell, tell_async
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

#: Where SQLAlchemy's record of a connection has what is known of it here.
_KEY = "hasql.dns"
#: What opens connections by itself, and the way to say the same to the engine.
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
    """Make an engine as `sqlalchemy.create_engine` does, which follows the name of its host.

    A connection in the pool whose address the name has left is replaced when it is checked out, by
    SQLAlchemy's own retry. The name is looked up in the background when its TTL ends, so that no
    checkout waits for DNS, and a connection in the pool is never refused for want of an answer.

    Drivers keep the name, and TLS is checked against it: psycopg and psycopg2 are given
    ``hostaddr`` beside it, pg8000 a socket, asyncpg a loop. Of several addresses the first one that
    answers is taken. Another driver looks up the name itself, as ever; its connection is replaced
    when the name has left all addresses that it had when the connection was opened.

    A host that is an address, a Unix socket or a list, and one that the driver finds elsewhere (in
    a service file or the environment), is left to the driver, as in any engine.

    No connection is opened here, and no name looked up. What follows the name ends with the engine.
    Your own ``do_connect`` listeners go first: what they put as host is followed, and what they
    connect by themselves is let be.

    Args:
        uri: The database's URL.
        engine_args: As those of `create_engine`.
        dns_timeout: Seconds that one attempt to ask a nameserver may take.
        dns_nameservers: Those to ask, such as ``"10.0.0.2:5353"``; None: the system's.
        dns_grace_ttl: Seconds for which an old answer serves new connects after its TTL, while no
            nameserver gives a good one.
        dns_fallback: Whether the system's resolver is asked when DNS fails and no old answer may
            serve.
        dns_max_retries: How many attempts there are in all.
        dns_extend_grace: Whether the grace doubles with each failure in a row, to 300 s at most.
        engine_kwargs: As those of `create_engine`.

    Raises:
        ConfigurationError: for a ``creator``, which would dial on its own account, and a ``pool``,
            which has one. It is a `ValueError`.
        MissingExtraError: without SQLAlchemy or dnspython.

    Connecting raises `NameResolutionError`, as it is and not wrapped by SQLAlchemy, when nothing is
    known of the name: it is an `OSError`.
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
    _NamesOfEngine(shared_resolver(settings)).follow_for(engine)
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
    """Make an engine as `create_async_engine` does, over asyncpg or psycopg, which follows a name.

    Arguments and errors are those of `get_dns_engine`; an ``async_creator`` is refused as well.
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
    _NamesOfEngine(shared_resolver(settings)).follow_for(engine.sync_engine)
    return engine


def _refuse_openers(kwargs: dict[str, Any]) -> None:
    given = {**(kwargs.get("connect_args") or {}), **kwargs}
    for name, remedy in _OPENERS.items():
        if given.get(name) is not None:
            raise ConfigurationError(
                f"{name!r} opens connections by itself, so that no name could be followed: {remedy}"
            )


#: The place in a pool for which this thread or task connects; a place may not live by this alone.
_CONNECTING: ContextVar[ReferenceType[ConnectionPoolEntry] | None]
_CONNECTING = ContextVar("connecting", default=None)


class _NamesOfEngine:
    """The names that one engine follows: one, unless its user's listeners change the host.

    SQLAlchemy's events and the engine's dialect keep it, and it keeps neither engine nor pool: it
    goes when they have gone, and the names are followed no more.
    """

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._followed: dict[str, FollowedName] = {}
        #: For pings, which are told of the connection alone, by its `id`.
        self._by_connection: WeakValueDictionary[int, DialledName] = WeakValueDictionary()

    def follow_for(self, engine: Engine) -> None:
        """Take part in what an engine does."""
        event.listen(engine, "do_connect", _note_place)
        event.listen(engine.pool, "checkout", self.check)
        # The dialect is this engine's alone.
        self._dial_for(engine.dialect)
        self._check_before_pings(engine.dialect)

    def check(
        self, _: DBAPIConnection, record: ConnectionPoolEntry, __: PoolProxiedConnection
    ) -> None:
        """Refuse a connection that leads to where its name does not lead any more.

        SQLAlchemy makes a new one then, once. Should the name have moved again meanwhile, that one
        is let pass: SQLAlchemy would raise an error.
        """
        dialled = record.info.get(_KEY)
        if dialled is None:
            return
        excused, dialled.excused = dialled.excused, False
        if dialled.has_left() and not excused:
            self._refuse(dialled, record.driver_connection)

    def _dial_for(self, dialect: Dialect) -> None:
        """Have the dialect tell its driver where to dial, once all listeners have had their say.

        Not in a listener to `do_connect`: what one puts into the arguments, SQLAlchemy before 2.1
        gives to the connects of other threads as well.
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
                dialled = await_only(tell_async(dialect.driver, cparams, followed))
            else:
                dialled = tell(dialect.driver, cparams, followed, dialect.loaded_dbapi)
            # pg8000's `connect` takes no socket, but the class of its connections does.
            by_socket = dialect.driver == "pg8000"
            opener = dialect.loaded_dbapi.Connection if by_socket else connect
            try:
                connection: DBAPIConnection = opener(*cargs, **cparams)
            except BaseException as error:
                dialled.abort()
                if isinstance(error, Exception):
                    self._resolver.expire(host)  # it may have moved, and its TTL be long
                raise
            dialled.connected(dialect.get_driver_connection(connection))
            dialled.put_in(_kept_with(place))
            self._by_connection[id(connection)] = place.info[_KEY] = dialled
            return connection

        dialect.connect = dial  # type: ignore[method-assign]  # of this one object

    def _check_before_pings(self, dialect: Dialect) -> None:
        """Have a ping refuse what `check` would: it comes first, and would ask a host that is gone.

        SQLAlchemy has no event before it.
        """
        ping = dialect.do_ping

        def do_ping(dbapi_connection: DBAPIConnection) -> bool:
            dialled = self._by_connection.get(id(dbapi_connection))
            if dialled is not None and dialled.has_left():
                self._refuse(dialled, dialect.get_driver_connection(dbapi_connection))
            return ping(dbapi_connection)

        dialect.do_ping = do_ping  # type: ignore[method-assign]  # of this one object

    def _refuse(self, dialled: DialledName, driver_connection: Any) -> NoReturn:
        dialled.refused()
        if dialled.driver == "asyncpg":
            # SQLAlchemy would close it in agreement with the server, and wait two seconds for one
            # that is gone.
            driver_connection.terminate()
        raise DisconnectionError(
            f"{dialled.host} does not lead to {', '.join(dialled.addresses)} any more"
        )

    def _follow(self, host: str) -> FollowedName:
        followed = self._followed.get(host)
        if followed is None:
            # Two threads may come here at once: one of them has followed it in vain.
            new = self._resolver.follow(host)
            followed = self._followed.setdefault(host, new)
            if followed is not new:
                new.close()
        return followed


def _note_place(_: Dialect, place: ConnectionPoolEntry, *__: object) -> None:
    """Note for which place in the pool is connected. What is returned has SQLAlchemy go on."""
    _CONNECTING.set(ReferenceType(place))


def _kept_with(place: ConnectionPoolEntry) -> dict[Any, Any]:
    """Return what is kept with a place in the pool, whichever connections it has had."""
    kept = place.record_info
    return {} if kept is None else kept
