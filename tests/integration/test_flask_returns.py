"""A request loses a connection that it gives back; what it closes is reset, then lent."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from flask import abort

from hasql import UnknownConnectionError
from hasql.contrib.flask.background import BackgroundReturns
from tests.flask_scene import FlaskScene, execute, value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.testing import LocalCluster

PID = "SELECT pg_backend_pid()"
LEFT = (
    "SELECT current_setting('app.user', true), count(*) FROM pg_locks WHERE locktype = 'advisory'"
)
LEAVE = "SELECT set_config('app.user', 'alice', false), pg_advisory_lock(42)"
CLEAN = [("", 0), (None, 0)]

MORE_THAN_THERE_IS = 1 << 50
"""A stack size in bytes that no thread can have: starts fail as at the limit of threads."""


@contextmanager
def no_more_threads() -> Iterator[None]:
    """Make each start of a thread fail, as the operating system does at its limit."""
    before = threading.stack_size(MORE_THAN_THERE_IS)
    try:
        yield
    finally:
        threading.stack_size(before)


def test_at_the_limit_of_threads_what_gives_back_is_done_once() -> None:
    """By then the executor has queued the work, for a thread that is busy."""
    returns = BackgroundReturns()
    begun, go_on = Event(), Event()
    done: list[str] = []

    def occupy() -> None:
        begun.set()
        assert go_on.wait(10)

    returns.submit(occupy)
    assert begun.wait(10)
    with no_more_threads():
        returns.submit(lambda: done.append(threading.current_thread().name))
    assert done == [threading.current_thread().name]
    go_on.set()
    returns.stop()
    assert len(done) == 1


@pytest.mark.parametrize(("raises", "kept"), [(False, [1, 2]), (True, [])])
def test_the_end_of_a_request_leaves_alone_what_it_has_given_back_early(
    flask: FlaskScene, raises: bool, kept: list[int]
) -> None:
    app, db, table = flask.app(pool=1, TRANSACTIONS="request"), flask.db, flask.table()
    statuses: list[int] = []

    def early() -> str:
        connection = db.connection()
        value(connection, PID)
        db.manager().putconn(connection)
        other_goes_on.set()
        assert other_has_begun.wait(10)
        if not raises:
            abort(404)
        return ""

    def other() -> str:
        execute(db.connection(), table.insert(1))
        other_has_begun.set()
        assert early_has_ended.wait(10)
        execute(db.connection(), table.insert(2))
        if raises:
            raise ZeroDivisionError
        return ""

    def ask_other() -> None:
        assert other_goes_on.wait(10)
        statuses.append(flask.ask(app, other).status_code)

    other_goes_on, other_has_begun, early_has_ended = Event(), Event(), Event()
    thread = threading.Thread(target=ask_other)
    thread.start()
    assert flask.ask(app, early).status_code == (200 if raises else 404)
    with app.app_context():  # wait for what it has left to other threads
        app.extensions["hasql"].returns.stop()
    early_has_ended.set()
    thread.join(20)
    assert statuses == [500 if raises else 200]
    flask.all_given_back(app)
    assert flask.rows(table) == kept


def test_what_is_given_back_early_is_reset_and_the_next_use_takes_another(
    flask: FlaskScene,
) -> None:
    app, db = flask.app(pool=1), flask.db
    found: list[Any] = []

    def view() -> str:
        connection, manager = db.connection(), db.manager()
        pid = value(connection, PID)
        execute(connection, LEAVE)
        manager.putconn(connection)
        assert flask.in_flight(app) == 0
        with pytest.raises(UnknownConnectionError):
            manager.putconn(connection)
        with manager.acquire_master() as other:
            raw = other.connection.driver_connection if flask.driver == "sqlalchemy" else other
            found.append(raw.autocommit)
            assert execute(other, LEFT)[0] in CLEAN
            assert value(other, PID) == pid
        return str(value(db.connection(), PID) == pid)

    assert flask.ask(app, view).text == "True"
    assert found == [False]
    flask.all_given_back(app)
    assert flask.ask(app, lambda: str(value(db.connection(), "SELECT 1"))).text == "1"


def test_what_a_view_puts_into_the_drivers_pool_keeps_no_place_once_another_has_it(
    pg_cluster: LocalCluster, application: str
) -> None:
    scene = FlaskScene(pg_cluster, "psycopg3", application)
    app, db = scene.app(pool=2), scene.db

    def view() -> str:
        connection, manager = db.connection(), db.manager()
        manager.get_master_pools()[0].putconn(connection)
        other = None
        while other is not connection:  # the pool lends its connections in turn
            with manager.acquire_master() as other:
                pass
        return str(value(db.connection(), "SELECT 1"))

    assert scene.ask(app, view).text == "1"
    scene.all_given_back(app)
    scene.close()


def test_what_sqlalchemy_closes_is_the_requests_still_and_reset_at_its_end(
    pg_cluster: LocalCluster, application: str
) -> None:
    """``with db.connection() as conn`` is an idiom of SQLAlchemy, and closes the connection."""
    scene = FlaskScene(pg_cluster, "sqlalchemy", application)
    app, db = scene.app(pool=1), scene.db

    def view() -> str:
        with db.connection() as connection:
            pid = value(connection, PID)
            execute(connection, LEAVE)
        with db.connection() as again:
            assert again is connection
            assert value(again, PID) == pid
        return str(pid)

    def look() -> str:
        assert execute(db.connection(), LEFT)[0] in CLEAN
        return str(value(db.connection(), PID))

    answers = [scene.ask(app, each) for each in (view, look, view, look)]
    assert [each.status_code for each in answers] == [200] * 4
    assert len({each.text for each in answers}) == 1
    scene.all_given_back(app)
    scene.close()


def test_what_sqlalchemy_closes_is_committed_with_its_request(
    pg_cluster: LocalCluster, application: str
) -> None:
    scene = FlaskScene(pg_cluster, "sqlalchemy", application)
    app, db, table = scene.app(pool=1, TRANSACTIONS="request"), scene.db, scene.table()

    def well() -> str:
        for number in (1, 2):
            with db.connection() as connection:
                connection.exec_driver_sql(table.insert(number))
        return ""

    def failing() -> str:
        with db.connection() as connection:
            connection.exec_driver_sql(table.insert(3))
        raise ZeroDivisionError

    assert [scene.ask(app, each).status_code for each in (well, failing)] == [200, 500]
    assert scene.rows(table) == [1, 2]
    scene.all_given_back(app)
    scene.close()
