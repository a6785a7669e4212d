"""A kit: how one driver does what every test of the driver suite does."""

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


#: What a test has run with each connection of the driver's.
Hook: TypeAlias = Callable[[Any], Awaitable[None]]
#: Takes the driver's pool and the connection, and may raise what the driver does.
Ending: TypeAlias = Callable[[Any, Any], Coroutine[Any, Any, None]]


async def left_as_it_is(pool: Any, connection: Any) -> None:
    """Do nothing: to give it back is the manager's work."""


async def closed(pool: Any, connection: Any) -> None:
    """Close a connection, as most drivers have it."""
    del pool
    await connection.close()


class LoadKit(ABC):
    """One driver, as far as an application under load uses it."""

    #: The test's parameter, such as ``psycopg3``.
    name: str
    #: The facade's module.
    module: str
    #: What leaves a statement on a connection that was lost, as docs/reference/errors.rst lists it.
    lost: tuple[type[Exception], ...]
    #: The keywords of `pool_factory_kwargs` for the pool's bounds; None: the driver has none.
    min_keyword: str | None
    max_keyword: str
    #: `pool_factory_kwargs` with which no named statement outlives its transaction, as poolers of
    #: transactions need it: what each driver's documentation says of PgBouncer.
    unprepared: ClassVar[dict[str, Any]] = {}
    #: Whether the driver is over libpq, which reads the DSN and takes settings as `options`.
    over_libpq = False

    def dsn(self, dsn: str) -> str:
        """Return the DSN for this driver; `dsn` begins with ``postgresql://``."""
        return dsn

    @abstractmethod
    def manager(self, dsn: str, /, *args: Any, **kwargs: Any) -> Any:
        """Make the driver's pool manager; `dsn` begins with ``postgresql://``."""

    def settings_in_dsn(self, settings: Mapping[str, str]) -> str:
        """Return the part of a DSN's query that sets sessions to these."""
        if not self.over_libpq:
            return urlencode(settings, quote_via=quote)
        # A space within a value is escaped from those between them.
        said = (f"-c {name}=" + value.replace(" ", r"\ ") for name, value in settings.items())
        return urlencode({"options": " ".join(said)}, quote_via=quote)

    def workers(self) -> Workers:
        """Make those who use the manager."""
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
        """Run a statement and see to it that it is committed when this returns."""

    @abstractmethod
    async def begin(self, connection: Any, statement: str) -> None:
        """Run a statement in a transaction that stays open, as one who forgets to end it would."""


class Kit(LoadKit):
    """One driver, as an application uses it.

    Kits are the only place of the suite that knows what a driver's own calls look like.
    """

    #: Whether a plus in the query of a DSN is a space, as in the library's own URLs.
    plus_is_space = True
    #: A client encoding other than UTF8 with which the driver's pool works.
    odd_encoding = "SQL_ASCII"
    #: What a statement raises that the server refuses; has the SQLSTATE somewhere.
    refused_statement: type[Exception]
    #: What a login raises that every host refuses, a wrong password for one.
    refused_login: type[Exception]
    #: Whether leaving `async with` commits what is open (psycopg), else it is rolled back.
    commits = False
    #: `pool_factory_kwargs` with which each statement commits itself; None: it always does, but in
    #: a transaction that was begun by name.
    autocommit: ClassVar[dict[str, Any] | None] = None
    #: Keywords that the driver's acquire and release take.
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
        """Return the adapter itself, which the pool manager works with."""
        dsn = self.dsn(dsn)
        return self.manager(dsn)._driver_of(Dsn.parse(dsn))  # noqa: SLF001  # the contract's seam

    @abstractmethod
    def arguments(self) -> list[Arguments]:
        """Return all arguments that the driver's library documents."""

    def of_connections(self, **kwargs: Any) -> dict[str, Any]:
        """Return `pool_factory_kwargs` that hold what is for connections."""
        return kwargs

    def with_settings(self, *, application_name: str, **settings: str) -> dict[str, Any]:
        """Return `pool_factory_kwargs` with which sessions have these settings."""
        if self.over_libpq:
            options = " ".join(f"-c {name}={value}" for name, value in settings.items())
            return self.of_connections(options=options, application_name=application_name)
        settings["application_name"] = application_name
        return self.of_connections(server_settings=settings)

    @property
    @abstractmethod
    def connection_type(self) -> type:
        """The class of what acquire gives."""

    @property
    @abstractmethod
    def pool_type(self) -> type:
        """The class of the driver's pool."""

    def contradictions(self) -> list[dict[str, Any]]:
        """Return `pool_factory_kwargs` that name the pool's bounds and cannot work."""
        bounds: list[dict[str, Any]] = [{self.max_keyword: -1}, {self.max_keyword: "many"}]
        if self.min_keyword is not None:
            bounds += [self.sizes(5, 2), self.sizes(0, 0)]
        return bounds

    def reset_hook(self, hook: Hook) -> dict[str, Any] | None:
        """Return `pool_factory_kwargs` with which it runs when a connection is given back.

        None: the driver has no such hook.
        """
        del hook
        return None

    def hooks(self, hook: Hook) -> dict[str, dict[str, Any]]:
        """Return `pool_factory_kwargs` with which it runs in an acquire, by the hook's name."""
        del hook
        return {}

    async def take(self, pool: Any) -> Any:
        """Take a connection from the driver's pool directly, past the pool manager."""
        return await pool.acquire()

    async def put(self, pool: Any, connection: Any) -> None:
        """Give a connection to the driver's pool directly, past the pool manager."""
        await pool.release(connection)

    def endings(self) -> dict[str, Ending]:
        """Return how an application may end a connection of the manager's within its lease."""
        return {"left as it is": left_as_it_is, "given to its pool": self.put}

    def checks(self) -> list[dict[str, Any]]:
        """Return `pool_factory_kwargs` with which an idle connection is seen to before it is lent.

        It is asked whether it lives, or closed and opened anew.
        """
        raise NotImplementedError

    async def port(self, connection: Any) -> int:
        """Return the port of the server behind a connection."""
        port = await self.value(connection, "SELECT inet_server_port()")
        assert isinstance(port, int)
        return port

    async def pid(self, connection: Any) -> int:
        """Return the process that serves a connection."""
        pid = await self.value(connection, "SELECT pg_backend_pid()")
        assert isinstance(pid, int)
        return pid
