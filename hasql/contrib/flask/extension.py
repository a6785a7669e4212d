"""The extension: the connections of an application to its clusters."""

from __future__ import annotations

from contextvars import ContextVar
from functools import wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, cast

from flask import Flask, current_app, has_app_context

from hasql.contrib.flask.clusters import AppClusters
from hasql.contrib.flask.commands import commands
from hasql.contrib.flask.context_leases import current_leases, current_or_new_leases
from hasql.contrib.flask.health import health_blueprint
from hasql.contrib.flask.requests import RequestEnds
from hasql.contrib.flask.settings import DEFAULT, read_settings
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import TypeVar

    from hasql.metrics import Metrics
    from hasql.sync.base import BaseSyncPoolManager

    _ConnT = TypeVar("_ConnT", default=Any)
else:
    from typing import TypeVar

    _ConnT = TypeVar("_ConnT")

__all__ = ("Hasql", "NoAppError")

_P = ParamSpec("_P")
_T = TypeVar("_T")

_EXTENSION = "hasql"

#: Whether `db.connection()` returns a replica's connection; the view decides by `db.read_only`.
_read_only: ContextVar[bool] = ContextVar("hasql_read_only", default=False)


class NoAppError(ConfigurationError, RuntimeError):
    """There is no application whose clusters could be used.

    The code runs outside of an app context, or the application was not passed to `init_app`. The
    class is a `RuntimeError`, like the error that Flask raises outside of an app context.
    """


class Hasql(Generic[_ConnT]):
    """Connections of an application's clusters, one for each request, cluster and role.

    One object serves any number of applications; each has its own settings and pool managers. To
    tell an editor the class of the connections, name it, as in
    ``db: Hasql[psycopg.Connection] = Hasql()``.

    Args:
        app: An application for which `init_app` is called right away, if given.

    Raises:
        ConfigurationError: See `init_app`.
        MissingExtraError: See `init_app`.
    """

    def __init__(self, app: Flask | None = None) -> None:
        #: The endpoints ``/live`` and ``/ready``, for `Flask.register_blueprint`. They report on
        #: all clusters of the current application.
        self.health = health_blueprint(self._clusters)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read an application's settings and prepare to serve its requests.

        No connection to a server is made yet.

        Raises:
            ConfigurationError: The settings can never work, or the application already has this
                extension.
            MissingExtraError: The library of a driver is not installed.
        """
        if not isinstance(app, Flask):
            msg = (
                f"Hasql takes a Flask application, not {app!r}; its pool managers are made from "
                "the settings HASQL_DSN, HASQL_DRIVER and HASQL_OPTIONS of app.config"
            )
            raise ConfigurationError(msg)
        if _EXTENSION in app.extensions:
            msg = (
                f"{app!r} already has this extension: call init_app once for each application, "
                "and name its other clusters in HASQL_CLUSTERS"
            )
            raise ConfigurationError(msg)
        settings = read_settings(app)
        app.extensions[_EXTENSION] = _Registered(self, settings)
        RequestEnds(app, settings.retry_after)
        app.cli.add_command(commands)

    # Connections

    def connection(
        self,
        read_only: bool | None = None,  # noqa: FBT001  # positional, as with `acquire`
        cluster: str = DEFAULT,
    ) -> _ConnT:
        """Return the connection of this request; further calls return the same one.

        The connection is acquired at the first call and given back when the app context ends. It is
        tested when it is acquired; that costs a round trip only if it has not answered within the
        last second.

        Args:
            read_only: Whether to return a connection to a replica; it is a different one from that
                to the master. The default, None, means True in a view decorated with `read_only` of
                this class, else False.
            cluster: The name of a cluster: ``default``, or a key of `HASQL_CLUSTERS`.

        Raises:
            NotAvailableError: No suitable host could serve within `acquire_timeout`. If the
                application does not handle it, it becomes 503 with ``Retry-After``.
            Exception: The driver's own OperationalError, if the request has got the connection
                before and it was lost since.
            ConfigurationError: The application has no such cluster.
            NoAppError: There is no app context, or `init_app` was not called.
        """
        found = self._clusters().of(cluster)
        wanted = _read_only.get() if read_only is None else read_only
        return cast("_ConnT", current_or_new_leases().connection(found, read_only=wanted))

    def manager(self, cluster: str = DEFAULT) -> BaseSyncPoolManager[Any, _ConnT]:
        """Return the pool manager of a cluster, for connections that do not belong to a request.

        Raises:
            ConfigurationError: The application has no such cluster.
            NoAppError: There is no app context, or `init_app` was not called.
        """
        return self._clusters().of(cluster).manager

    def read_only(self, view: Callable[_P, _T]) -> Callable[_P, _T]:
        """Decorate a view in which `connection` returns a connection to a replica.

        Put this decorator below that of the route. In such a view ``connection(read_only=False)``
        still returns a connection to the master.
        """
        if iscoroutinefunction(view):

            @wraps(view)
            async def of_replica_async(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                before = _read_only.set(True)
                try:
                    return await view(*args, **kwargs)
                finally:
                    _read_only.reset(before)

            return cast("Callable[_P, _T]", of_replica_async)

        @wraps(view)
        def of_replica(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            before = _read_only.set(True)
            try:
                return view(*args, **kwargs)
            finally:
                _read_only.reset(before)

        return of_replica

    # The application

    def stats(self) -> dict[str, Metrics]:
        """Return a snapshot of the metrics of each cluster of this application, by its name."""
        clusters = self._clusters().by_name
        return {name: cluster.manager.metrics() for name, cluster in clusters.items()}

    def close(self, timeout: float = 10.0) -> None:
        """Close the current application's pool managers; the next use makes new ones.

        The connections of this app context are given back. Those of other app contexts have
        `timeout` seconds (10 by default) to be given back; then they are broken.
        """
        clusters = self._clusters()
        leases = current_leases()
        if leases is not None:
            leases.give_back(None)
        clusters.close(timeout)

    def _clusters(self) -> AppClusters:
        if not has_app_context():
            raise NoAppError(
                "there is no app context here, so hasql cannot tell which application's "
                "connections to use: put `with app.app_context():` around this. A thread of your "
                "own needs one, too"
            )
        registered = current_app.extensions.get(_EXTENSION)
        if not isinstance(registered, _Registered) or registered.extension is not self:
            name = current_app.name
            raise NoAppError(
                f"this Hasql does not know the application {name!r}: call db.init_app(app) on "
                "this same object when the application is made"
            )
        return registered


class _Registered(AppClusters):
    """The clusters of an application, and the extension object that it was registered with."""

    def __init__(self, extension: Hasql[Any], settings: Any) -> None:
        super().__init__(settings)
        self.extension = extension
