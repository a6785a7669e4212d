"""Flask applications on a real cluster, and the statements that tests run in them."""

from __future__ import annotations

from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from testbed.scene import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from werkzeug.test import TestResponse

    from hasql.contrib.flask import Hasql
    from hasql.testing import LocalCluster, LocalNode

__all__ = ("DRIVERS", "FlaskScene", "execute", "sizes", "value", "wait_for")

DRIVERS = ("psycopg3", "psycopg2", "sqlalchemy")


def sizes(driver: str, maximum: int) -> dict[str, Any]:
    """Return the `pool_factory_kwargs` for pools of `maximum` connections, opened when needed."""
    if driver == "psycopg3":
        return {"min_size": 0, "max_size": maximum}
    return {"pool_size": maximum, "max_overflow": 0}


def execute(connection: Any, sql: str) -> list[Any]:
    """Run a statement through the API of the connection's driver, and return its rows."""
    if hasattr(connection, "exec_driver_sql"):
        result = connection.exec_driver_sql(sql)
        return list(result) if result.returns_rows else []
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


def value(connection: Any, sql: str) -> Any:
    """Return the single value that a query yields."""
    return execute(connection, sql)[0][0]


def wait_for(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds that another thread or process brings about."""
    deadline = monotonic() + 20
    while not holds():
        assert monotonic() < deadline
        sleep(0.005)


class FlaskScene:
    """Makes applications, and closes their pool managers at the end."""

    def __init__(self, cluster: LocalCluster, driver: str, application: str) -> None:
        from hasql.contrib.flask import Hasql

        self.cluster = cluster
        self.driver = driver
        self.application = application
        self.dsn = f"{cluster.dsn}?application_name={application}"
        self.db: Hasql[Any] = Hasql()
        self.apps: list[Flask] = []

    def app(self, *, pool: int = 4, replicas: int = 2, **settings: Any) -> Flask:
        """Make an application; `settings` are its configuration, without the prefix ``HASQL_``."""
        from flask import Flask

        app = Flask("tested")
        options = {"pool_factory_kwargs": sizes(self.driver, pool), **settings.pop("OPTIONS", {})}
        config = {"DSN": self.dsn, "DRIVER": self.driver, "OPTIONS": options, **settings}
        app.config.update({f"HASQL_{name}": each for name, each in config.items()})
        self.db.init_app(app)
        self.apps.append(app)
        with app.app_context():
            self.db.manager().ready(1, replicas)
        return app

    def dsn_of(self, node: LocalNode) -> str:
        """Return the DSN of one node."""
        return f"{node.dsn}?application_name={self.application}"

    def ask(self, app: Flask, view: Callable[[], Any]) -> TestResponse:
        """Add a route for a view, send one request to it, and return the response."""
        path = f"/{len(app.view_functions)}"
        # Flask refuses to add a route after the first request; its map does not.
        app.view_functions[path] = view
        app.url_map.add(app.url_rule_class(path, endpoint=path, methods={"GET"}))
        return app.test_client().get(path)

    def in_flight(self, app: Flask) -> int:
        """Count the places that are taken in the pools of the application."""
        with app.app_context():
            nodes = [node for each in self.db.stats().values() for node in each.nodes]
        return sum(node.in_flight for node in nodes)

    def all_given_back(self, app: Flask) -> None:
        """Wait until no place is taken: connections are reset after the response."""
        wait_for(lambda: self.in_flight(app) == 0)

    def close(self) -> None:
        for app in self.apps:
            with app.app_context():
                self.db.close(2)

    @contextmanager
    def admin(self, node: LocalNode | None = None) -> Iterator[psycopg.Connection[Any]]:
        """Connect as an administrator, to the master unless another node is given."""
        dsn = (node or self.cluster.master).superuser_dsn
        with psycopg.connect(dsn, autocommit=True) as connection:
            yield connection

    def end(self, pid: int) -> None:
        """End a session as an administrator, and wait until it is gone."""
        with self.admin() as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])

    def table(self) -> Table:
        """Make an empty table (i int UNIQUE DEFERRABLE INITIALLY DEFERRED)."""
        with self.admin() as admin:
            name = f"t_{uuid4().hex}"
            admin.execute(
                f"CREATE TABLE {name} (i int UNIQUE DEFERRABLE INITIALLY DEFERRED);"
                f"GRANT ALL ON {name} TO app"
            )
        return Table(name)

    def rows(self, table: Table) -> list[int]:
        """Return the values that another session sees in a table."""
        with self.admin() as admin:
            return [row[0] for row in execute(admin, f"{table.rows} ORDER BY i")]


@pytest.fixture(params=DRIVERS)
def flask(
    request: pytest.FixtureRequest, pg_cluster: LocalCluster, application: str
) -> Iterator[FlaskScene]:
    """A scene of applications that use one of the drivers."""
    scene = FlaskScene(pg_cluster, request.param, application)
    yield scene
    scene.close()
