"""The base of the kits: how a driver does what the common tests of all drivers need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from urllib.parse import quote, urlencode

from hasql.cluster.dsn import Dsn
from testbed.held_clock import with_clock
from testbed.workers import TaskWorkers

if TYPE_CHECKING:
    from hasql.base import BasePoolManager
    from hasql.driver import Driver
    from testbed.kits.arguments import Arguments
    from testbed.workers import Workers


#: A test's own function that is called with each of the driver's connections.
Hook: TypeAlias = Callable[[Any], Awaitable[None]]
#: A function that takes the driver's pool and the connection, and may raise the driver's errors.
Ending: TypeAlias = Callable[[Any, Any], Coroutine[Any, Any, None]]


async def left_as_it_is(pool: Any, connection: Any) -> None:
    """Do nothing: the pool manager gives the connection back."""


async def closed(pool: Any, connection: Any) -> None:
    """Close a connection, in the way of most drivers."""
    del pool
    await connection.close()


class LoadKit(ABC):
    """A driver, as far as an application under load uses it."""

    #: The test's parameter, such as ``psycopg3``.
    name: str
    #: The facade's module.
    module: str
    #: The errors of a statement on a lost connection; docs/reference/errors.rst lists them.
    lost: tuple[type[Exception], ...]
    #: The keywords of `pool_factory_kwargs` for the pool's bounds; None if the driver has none.
    min_keyword: str | None
    max_keyword: str
    #: `pool_factory_kwargs` with which no named statement outlives its transaction; a pooler of
    #: transactions needs that. Each driver's documentation recommends them for PgBouncer.
    unprepared: ClassVar[dict[str, Any]] = {}
    #: Whether the driver uses libpq, which reads the DSN and takes settings as `options`.
    over_libpq = False

    def dsn(self, dsn: str) -> str:
        """Return the DSN for this driver; `dsn` begins with ``postgresql://``."""
        return dsn

    @abstractmethod
    def manager(self, dsn: str, /, *args: Any, **kwargs: Any) -> Any:
        """Make the driver's pool manager; `dsn` begins with ``postgresql://``."""

    def settings_in_dsn(self, settings: Mapping[str, str]) -> str:
        """Return the part of a DSN's query that gives sessions these settings."""
        if not self.over_libpq:
            return urlencode(settings, quote_via=quote)
        # A space within a value is escaped, because unescaped spaces separate the options.
        said = (f"-c {name}=" + value.replace(" ", r"\ ") for name, value in settings.items())
        return urlencode({"options": " ".join(said)}, quote_via=quote)

    def workers(self) -> Workers:
        """Make the workers that use the pool manager."""
        return TaskWorkers()

    def sizes(self, minimum: int, maximum: int) -> dict[str, Any]:
        """Return `pool_factory_kwargs` for a pool with these bounds."""
        sizes: dict[str, Any] = {self.max_keyword: maximum}
        if self.min_keyword is not None:
            sizes[self.min_keyword] = minimum
        return sizes

    @abstractmethod
    async def value(self, connection: Any, query: str) -> Any:
        """Run a query and return the first column of its one row."""

    @abstractmethod
    async def write(self, connection: Any, statement: str) -> None:
        """Run a statement, and make sure that it is committed on return."""

    @abstractmethod
    async def begin(self, connection: Any, statement: str) -> None:
        """Run a statement in a transaction that stays open, as if its end had been forgotten."""


class Kit(LoadKit):
    """A driver, as an application uses it.

    The kits are the only part of the test suite that knows the drivers' own calls.
    """

    #: Whether a plus in the query of a DSN is a space, as in the library's own URLs.
    plus_is_space = True
    #: A client encoding other than UTF8 with which the driver's pool works.
    odd_encoding = "SQL_ASCII"
    #: The error of a statement that the server refuses; it holds the SQLSTATE somewhere.
    refused_statement: type[Exception]
    #: The error of a login that every host refuses, for example for a wrong password.
    refused_login: type[Exception]
    #: Whether leaving `async with` commits an open transaction (psycopg), or rolls it back.
    commits = False
    #: `pool_factory_kwargs` with which each statement commits itself; None if it always does so
    #: outside of an explicit transaction.
    autocommit: ClassVar[dict[str, Any] | None] = None
    #: Keywords that the driver's acquire and release accept.
    acquire_kwargs: ClassVar[dict[str, Any]] = {}
    release_kwargs: ClassVar[dict[str, Any]] = {}

    def manager(
        self, dsn: str, /, *args: Any, clock: Callable[[], float] = monotonic, **kwargs: Any
    ) -> BasePoolManager[Any, Any]:
        """Make the driver's pool manager; `dsn` begins with ``postgresql://``."""
        of_driver = with_clock(import_module(self.module).PoolManager, clock)
        made: BasePoolManager[Any, Any] = of_driver(self.dsn(dsn), *args, **kwargs)
        return made

    def driver(self, dsn: str) -> Driver[Any, Any]:
        """Return the adapter itself that the pool manager uses."""
        dsn = self.dsn(dsn)
        return self.manager(dsn)._driver_of(Dsn.parse(dsn))  # noqa: SLF001  # the contract's seam

    @abstractmethod
    def arguments(self) -> list[Arguments]:
        """Return all arguments that the driver's library documents."""

    def of_connections(self, **kwargs: Any) -> dict[str, Any]:
        """Return `pool_factory_kwargs` that pass these arguments to connections."""
        return kwargs

    def with_settings(self, *, application_name: str, **settings: str) -> dict[str, Any]:
        """Return `pool_factory_kwargs` that give sessions these settings."""
        if self.over_libpq:
            options = " ".join(f"-c {name}={value}" for name, value in settings.items())
            return self.of_connections(options=options, application_name=application_name)
        settings["application_name"] = application_name
        return self.of_connections(server_settings=settings)

    @property
    @abstractmethod
    def connection_type(self) -> type:
        """The class of an acquired connection."""

    @property
    @abstractmethod
    def pool_type(self) -> type:
        """The class of the driver's pool."""

    def contradictions(self) -> list[dict[str, Any]]:
        """Return `pool_factory_kwargs` with bounds of the pool that cannot work."""
        bounds: list[dict[str, Any]] = [{self.max_keyword: -1}, {self.max_keyword: "many"}]
        if self.min_keyword is not None:
            bounds += [self.sizes(5, 2), self.sizes(0, 0)]
        return bounds

    def reset_hook(self, hook: Hook) -> dict[str, Any] | None:
        """Return `pool_factory_kwargs` that run a hook when a connection is given back.

        Return None if the driver has no such hook.
        """
        del hook
        return None

    def hooks(self, hook: Hook) -> dict[str, dict[str, Any]]:
        """Return `pool_factory_kwargs` that run a hook in an acquire, by the name of the hook."""
        del hook
        return {}

    async def take(self, pool: Any) -> Any:
        """Take a connection directly from the driver's pool, without the pool manager."""
        return await pool.acquire()

    async def put(self, pool: Any, connection: Any) -> None:
        """Give a connection directly back to the driver's pool, without the pool manager."""
        await pool.release(connection)

    def endings(self) -> dict[str, Ending]:
        """Return the ways in which an application may end a leased connection by itself."""
        return {"left as it is": left_as_it_is, "given to its pool": self.put}

    def checks(self) -> list[dict[str, Any]]:
        """Return `pool_factory_kwargs` with which an idle connection is checked before it is lent.

        The check tests whether the connection is alive, or closes it and opens a new one.
        """
        raise NotImplementedError

    async def port(self, connection: Any) -> int:
        """Return the port of the server behind a connection."""
        port = await self.value(connection, "SELECT inet_server_port()")
        assert isinstance(port, int)
        return port

    async def pid(self, connection: Any) -> int:
        """Return the pid of the process that serves a connection."""
        pid = await self.value(connection, "SELECT pg_backend_pid()")
        assert isinstance(pid, int)
        return pid
