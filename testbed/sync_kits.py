"""The kits of `hasql.sync`: how each driver does in threads what the common tests need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import psycopg
import psycopg2
import psycopg_pool
from psycopg2 import extensions
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from hasql.cluster.dsn import Dsn
from hasql.driver.time_left import TimeLeft
from testbed.held_clock import with_clock
from testbed.kits.registry import THREAD_DRIVERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from hasql.driver import Driver
    from hasql.sync.base import BaseSyncPoolManager

__all__ = (
    "SYNC_KITS",
    "Psycopg2ThreadKit",
    "Psycopg3ThreadKit",
    "SqlalchemyPsycopg2ThreadKit",
    "SqlalchemyPsycopgThreadKit",
    "SyncKit",
    "time_left",
)

#: A test's own function that is called with each of the driver's connections.
SyncHook: TypeAlias = "Callable[[Any], None]"


def time_left(seconds: float = 10.0) -> TimeLeft:
    """Return the `TimeLeft` of an acquire that may take `seconds`."""
    return TimeLeft(monotonic() + seconds, monotonic, 0.1, lambda: None)


class SyncKit(ABC):
    """A driver, as an application uses it in threads.

    The kits are the only part of the test suite that knows the drivers' own calls.
    """

    #: The test's parameter, such as ``psycopg3``.
    name: str
    #: The facade's module.
    module: str
    #: The errors that a statement on a lost connection raises.
    lost: tuple[type[Exception], ...]
    #: The error of a statement that the server refuses.
    refused_statement: type[Exception]
    #: The keywords of `pool_factory_kwargs` for the pool's bounds; None if the driver has none.
    min_keyword: str | None
    max_keyword: str
    #: `pool_factory_kwargs` with which no named statement outlives its transaction; a pooler of
    #: transactions needs that.
    unprepared: ClassVar[dict[str, Any]] = {}
    #: Whether leaving ``with`` commits an open transaction; otherwise it is rolled back.
    commits = False
    #: The classes of an acquired connection and of the driver's pool.
    connection_type: ClassVar[type]
    pool_type: ClassVar[type]

    def dsn(self, dsn: str) -> str:
        """Return the DSN for this driver; `dsn` begins with ``postgresql://``."""
        return dsn

    def manager(
        self, dsn: str, /, *args: Any, clock: Callable[[], float] = monotonic, **kwargs: Any
    ) -> BaseSyncPoolManager[Any, Any]:
        """Make the driver's pool manager; `dsn` begins with ``postgresql://``."""
        of_driver = with_clock(import_module(self.module).PoolManager, clock)
        made: BaseSyncPoolManager[Any, Any] = of_driver(self.dsn(dsn), *args, **kwargs)
        return made

    def driver(self, dsn: str) -> Driver[Any, Any]:
        """Return the adapter itself that the pool manager uses."""
        dsn = self.dsn(dsn)
        return self.manager(dsn)._driver_of(Dsn.parse(dsn))  # noqa: SLF001  # the contract's seam

    def sizes(self, minimum: int, maximum: int) -> dict[str, Any]:
        """Return `pool_factory_kwargs` for a pool with these bounds."""
        sizes: dict[str, Any] = {self.max_keyword: maximum}
        if self.min_keyword is not None:
            sizes[self.min_keyword] = minimum
        return sizes

    def hooks(self, hook: SyncHook) -> dict[str, dict[str, Any]]:
        """Return `pool_factory_kwargs` that run a hook in an acquire, by the name of the hook."""
        del hook
        return {}

    def reset_hook(self, hook: SyncHook) -> dict[str, Any] | None:
        """Return `pool_factory_kwargs` that run a hook when a connection is given back."""
        del hook
        return None

    @abstractmethod
    def take(self, pool: Any) -> Any:
        """Take a connection directly from the driver's pool, without the pool manager."""

    @abstractmethod
    def put(self, pool: Any, connection: Any) -> None:
        """Give a connection directly back to the driver's pool, without the pool manager."""

    @abstractmethod
    def value(self, connection: Any, query: str) -> Any:
        """Run a query and return the first column of its one row."""

    @abstractmethod
    def begin(self, connection: Any, statement: str) -> None:
        """Run a statement in a transaction that stays open."""

    @abstractmethod
    def end(self, connection: Any) -> None:
        """Commit the open transaction."""

    def pid(self, connection: Any) -> int:
        """Return the pid of the process that serves a connection; leave no transaction open."""
        pid = self.value(connection, "SELECT pg_backend_pid()")
        assert isinstance(pid, int)
        self.end(connection)
        return pid


class Psycopg3ThreadKit(SyncKit):
    name = "psycopg3"
    module = "hasql.sync.psycopg3"
    unprepared: ClassVar[dict[str, Any]] = {"kwargs": {"prepare_threshold": None}}
    lost = (psycopg.OperationalError,)
    refused_statement = psycopg.DatabaseError
    min_keyword = "min_size"
    max_keyword = "max_size"
    commits = True
    connection_type = psycopg.Connection
    pool_type = psycopg_pool.ConnectionPool

    def hooks(self, hook: SyncHook) -> dict[str, dict[str, Any]]:
        return {name: {name: hook} for name in ("configure", "check")}

    def reset_hook(self, hook: SyncHook) -> dict[str, Any]:
        return {"reset": hook}

    def take(self, pool: Any) -> Any:
        return pool.getconn()

    def put(self, pool: Any, connection: Any) -> None:
        pool.putconn(connection)

    def value(self, connection: Any, query: str) -> Any:
        (value,) = connection.execute(query).fetchone()
        return value

    def begin(self, connection: Any, statement: str) -> None:
        connection.execute(statement)

    def end(self, connection: Any) -> None:
        connection.commit()


class _QueuePoolKit(SyncKit):
    min_keyword = None
    max_keyword = "pool_size"

    #: Limits the time of a login in tests, because libpq's login cannot be interrupted.
    login_limit: ClassVar[dict[str, Any]] = {"connect_timeout": 2}

    def sizes(self, minimum: int, maximum: int) -> dict[str, Any]:
        return {"max_overflow": 0, **super().sizes(minimum, maximum), **self.login_limit}


class Psycopg2ThreadKit(_QueuePoolKit):
    name = "psycopg2"
    module = "hasql.sync.psycopg2"
    lost = (psycopg2.OperationalError, psycopg2.InterfaceError)
    refused_statement = psycopg2.DatabaseError
    connection_type = extensions.connection
    pool_type = QueuePool

    def take(self, pool: Any) -> Any:
        return pool.connect()

    def put(self, pool: Any, connection: Any) -> None:
        del pool
        connection.close()

    def value(self, connection: Any, query: str) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(query)
            (value,) = cursor.fetchone()
            return value

    def begin(self, connection: Any, statement: str) -> None:
        connection.cursor().execute(statement)

    def end(self, connection: Any) -> None:
        connection.commit()


class _SqlalchemyThreadKit(_QueuePoolKit):
    module = "hasql.sync.sqlalchemy"
    lost = (DBAPIError,)
    refused_statement = DBAPIError
    connection_type = Connection
    pool_type = Engine
    #: The library that SQLAlchemy uses, by its name in a DSN.
    library: str

    def dsn(self, dsn: str) -> str:
        return dsn.replace("postgresql://", f"postgresql+{self.library}://", 1)

    def take(self, pool: Any) -> Any:
        return pool.connect()

    def put(self, pool: Any, connection: Any) -> None:
        del pool
        connection.close()

    def value(self, connection: Any, query: str) -> Any:
        return connection.scalar(text(query))

    def begin(self, connection: Any, statement: str) -> None:
        connection.execute(text(statement))

    def end(self, connection: Any) -> None:
        connection.commit()


class SqlalchemyPsycopgThreadKit(_SqlalchemyThreadKit):
    name = "sqlalchemy-psycopg"
    library = "psycopg"
    unprepared: ClassVar[dict[str, Any]] = {"connect_args": {"prepare_threshold": None}}
    login_limit: ClassVar[dict[str, Any]] = {}


class SqlalchemyPsycopg2ThreadKit(_SqlalchemyThreadKit):
    name = "sqlalchemy-psycopg2"
    library = "psycopg2"
    login_limit: ClassVar[dict[str, Any]] = {"connect_args": _QueuePoolKit.login_limit}


SYNC_KITS: list[SyncKit] = [globals()[kit]() for driver in THREAD_DRIVERS for kit in driver.kits]
