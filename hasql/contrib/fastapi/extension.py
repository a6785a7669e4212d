"""The extension: the connections of one pool manager, for the requests of an application."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from inspect import isasyncgenfunction, isgeneratorfunction
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request

from hasql.base import BasePoolManager
from hasql.contrib.fastapi.access import Access
from hasql.contrib.fastapi.give_back import GiveBackMiddleware
from hasql.contrib.fastapi.health import health_router
from hasql.contrib.fastapi.unavailable import answer_for_middleware
from hasql.diagnostics import about
from hasql.errors import ConfigurationError, NotAvailableError, PoolManagerClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncSession

    from hasql.contrib.fastapi.request_leases import RequestLease

__all__ = ("Hasql",)

log = logging.getLogger("hasql")

_ConnT = TypeVar("_ConnT")
_AppT = TypeVar("_AppT", bound=Starlette)
_StateT = TypeVar("_StateT")

#: Seconds that the start of an application waits for a master.
_START_TIMEOUT = 2.0


class Hasql(Generic[_ConnT]):
    """Connections of one cluster for the requests of one FastAPI or Starlette application.

    `master`, `replica`, `access`, `session` and `read_session` are dependencies, for ``Depends``.

    Args:
        pool: Any async `PoolManager` that is not started yet: `lifespan` starts and closes it.
        name: The cluster's name in health reports and errors, ``default`` if not given. Each
            cluster of an application needs its own name.

    Raises:
        ConfigurationError: The pool manager is not an async one, or the name is empty.
    """

    def __init__(self, pool: BasePoolManager[Any, _ConnT], name: str = "default") -> None:
        if not isinstance(pool, BasePoolManager):
            raise ConfigurationError(
                "hasql.contrib.fastapi needs an async PoolManager, such as that of hasql.asyncpg "
                f"or hasql.psycopg3; {type(pool).__module__}.{type(pool).__qualname__} is not one"
            )
        if not name:
            raise ConfigurationError("the name of a cluster must not be empty")
        self.pool = pool
        self.name = name
        #: The endpoints ``/health/live`` and ``/health/ready``, for `FastAPI.include_router`. They
        #: report on all clusters that are installed in the application.
        self.health = health_router(self._pools_of)
        self._key = f"hasql.{name}"
        self._serves = False

    def __repr__(self) -> str:
        return f"<Hasql {self.name!r} of {self.pool!r}>"

    # The application

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:  # noqa: ARG002  # the signature that Starlette calls
        """Start the pool manager with the application, and drain it at the end.

        The start waits up to two seconds for a master: an application also starts while no host
        answers. At the end the server has already let all requests end. Leases that tasks of the
        application still hold have 30 s to end; then they are broken and logged.

        Raises:
            Exception: The driver's own error, if every host refuses the login, the database
                name or TLS, or if the arguments for connecting cannot work on any host.
            PoolManagerClosedError: The pool manager has served an application that has ended.
        """
        if self.pool.closing:
            raise PoolManagerClosedError(
                f"the pool manager {self.name!r} was closed when an application ended: make a new "
                "one, with a new application, for each start"
            )
        try:
            await self.pool.ready(1, 0, timeout=_START_TIMEOUT)
        except NotAvailableError as error:
            extra = about("started_without_master")
            log.warning("the application starts without a master: %s", error, extra=extra)
        except BaseException:
            await self.pool.terminate()
            raise
        self._serves = True
        try:
            yield
        finally:
            self._serves = False
            await self.pool.drain()

    def lifespan_with(
        self, own: Callable[[_AppT], AbstractAsyncContextManager[_StateT]]
    ) -> Callable[[_AppT], AbstractAsyncContextManager[_StateT]]:
        """Return a lifespan that starts the pool manager, and runs the lifespan `own` in it.

        Args:
            own: A lifespan of the application, or that of another `Hasql`.
        """

        @asynccontextmanager
        async def lifespan(app: _AppT) -> AsyncIterator[_StateT]:
            async with self.lifespan(app), own(app) as state:
                yield state

        return lifespan

    def install(self, app: Starlette) -> None:
        """Make the application's requests give their connections back before they respond.

        Besides, a NotAvailableError for which the application has no handler is answered with 503
        and ``Retry-After``, also if a middleware of the application raises it.

        Raises:
            ConfigurationError: The application has another cluster of this name.
            TypeError: `app` is not an application of FastAPI or Starlette.
        """
        if not isinstance(app, Starlette):
            msg = f"install() takes an application of FastAPI or Starlette, not {app!r}"
            raise TypeError(msg)
        installed = _installed_in(app)
        is_first = not installed
        other = installed.setdefault(self.name, self)
        if other is not self:
            raise ConfigurationError(
                f"the application already has a cluster {self.name!r}: give this one another name "
                "with Hasql(pool, name=...)"
            )
        app.state.hasql = installed
        if is_first:
            answer_for_middleware(app)
        # This middleware wraps the routes directly. Those of `app.add_middleware` are outside of
        # the app's exception handlers, which must also see a commit that fails.
        router = app.router
        router.middleware_stack = GiveBackMiddleware(router.middleware_stack, self.pool, self._key)

    # Dependencies

    async def master(self, connection: HTTPConnection) -> AsyncIterator[_ConnT]:
        """Provide a connection to a master, the same one throughout a request.

        The connection is given back before the response begins, whatever ``scope=`` says. If an
        exception has left the endpoint, its lease ends with that exception.

        Raises:
            NotAvailableError: No suitable host could serve in time.
            ConfigurationError: The endpoint is a WebSocket's or yields its response, or `install`
                or `lifespan` is missing. It is also raised instead of the response if a
                transaction that was begun on the connection has not ended by then.
        """
        async with self._lease(connection, read_only=False) as lent:
            yield lent

    async def replica(self, connection: HTTPConnection) -> AsyncIterator[_ConnT]:
        """Provide a connection to a replica; see `master`."""
        async with self._lease(connection, read_only=True) as lent:
            yield lent

    async def access(self, connection: HTTPConnection) -> Access[_ConnT]:
        """Provide an `Access`, which acquires connections later, each for one ``async with``."""
        self._leases_of(connection)
        return Access(self.pool)

    async def session(self, connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
        """Provide an SQLAlchemy session on the connection that `master` provides.

        Changes that the endpoint does not commit are rolled back. Objects that were committed can
        be read afterwards (``expire_on_commit=False``).

        Raises:
            NotAvailableError: No suitable host could serve in time.
            ConfigurationError: As with `master`, or the pool manager is not SQLAlchemy's.
        """
        lease = self._lease(connection, read_only=False)
        async with lease as lent:
            yield lease.session(lent)

    async def read_session(self, connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
        """Provide an SQLAlchemy session on the connection of `replica`; see `session`."""
        lease = self._lease(connection, read_only=True)
        async with lease as lent:
            yield lease.session(lent)

    def _lease(self, connection: HTTPConnection, *, read_only: bool) -> RequestLease[_ConnT]:
        leases = self._leases_of(connection)
        if leases is None:
            raise ConfigurationError(
                "a WebSocket would hold its connection to the server for as long as it lives: "
                "use Depends(db.access), and `async with access.master()` where a connection is "
                "needed"
            )
        endpoint = connection.scope.get("endpoint")
        if isasyncgenfunction(endpoint) or isgeneratorfunction(endpoint):
            raise ConfigurationError(
                "an endpoint that yields still runs while its response is sent, after its "
                "connection was given back: use Depends(db.access), and `async with "
                "access.master()` in it"
            )
        lease: RequestLease[_ConnT] = leases.of(read_only=read_only)
        return lease

    def _leases_of(self, connection: HTTPConnection) -> Any:
        if not self._serves:
            raise ConfigurationError(
                f"the pool manager {self.name!r} is not started by the application's lifespan: "
                "use FastAPI(lifespan=db.lifespan), or db.lifespan_with(yours). Some test "
                "clients run a lifespan only when they are told to"
            )
        try:
            return connection.scope[self._key]
        except KeyError:
            raise ConfigurationError(
                f"{self.name!r} is not installed in the application: call db.install(app)"
            ) from None

    def _pools_of(self, request: Request) -> dict[str, BasePoolManager[Any, Any]]:
        installed = _installed_in(request.app)
        return {name: db.pool for name, db in {self.name: self, **installed}.items()}


def _installed_in(app: Any) -> dict[str, Hasql[Any]]:
    installed: dict[str, Hasql[Any]] = getattr(app.state, "hasql", {})
    return installed
