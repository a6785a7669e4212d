"""`hasql.contrib.flask` on real servers, compared with a pool of one's own for Flask.

Each behaviour of such a pool that applications rely on has a test here, and so has each of its
faults.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Event
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import flask as library
import psycopg
import psycopg2
import pytest
import sqlalchemy.exc

from hasql import NotAvailableError
from hasql.resilience import SessionDefaults
from testbed.middlemen.addresses import dsn_through
from testbed.proxy import Proxy
from testbed.strict_proxy import StrictProxy
from tests.flask_scene import FlaskScene, execute, value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: it serves proxies; the application runs in threads."""
    return "asyncio", {"use_uvloop": False}


LOST = (psycopg.OperationalError, psycopg2.OperationalError, sqlalchemy.exc.OperationalError)

PID = "SELECT pg_backend_pid()"
IN_RECOVERY = "SELECT pg_is_in_recovery()"


@contextmanager
def thread(work: Callable[[], None]) -> Iterator[threading.Thread]:
    """Do some work in another thread, and join the thread at the end of the block."""
    other = threading.Thread(target=work)
    other.start()
    try:
        yield other
    finally:
        other.join(20)
        assert not other.is_alive()


# What that pool did


def test_a_request_has_one_connection_however_often_it_asks(flask: FlaskScene) -> None:
    app, db = flask.app(), flask.db

    def view() -> str:
        assert db.connection() is db.connection()
        return str(value(db.connection(), PID) == value(db.connection(), PID))

    assert flask.ask(app, view).text == "True"


def test_a_connection_is_given_back_whatever_became_of_the_request(flask: FlaskScene) -> None:
    app, db = flask.app(pool=1), flask.db

    def refused() -> str:
        db.connection()
        library.abort(404)

    def broken() -> str:
        db.connection()
        raise ZeroDivisionError

    statuses = [flask.ask(app, view).status_code for view in [refused, broken] * 3]
    assert statuses == [404, 500] * 3
    flask.all_given_back(app)


def test_a_connection_that_died_while_idle_reaches_no_request(flask: FlaskScene) -> None:
    app, db = flask.app(pool=1), flask.db

    def view() -> str:
        return str(value(db.connection(), PID))

    first = flask.ask(app, view).text
    flask.all_given_back(app)
    flask.end(int(first))
    second = flask.ask(app, view)
    assert second.status_code == 200
    assert second.text != first


async def test_a_connection_that_something_between_has_forgotten_reaches_no_request(
    flask: FlaskScene,
) -> None:
    """A firewall forgets idle connections, whose sockets look sound for a quarter of an hour."""
    master = flask.cluster.master
    async with Proxy("127.0.0.1", master.port) as proxy:
        dsn = flask.dsn_of(master).replace(str(master.port), str(proxy.port))
        app = await asyncio.to_thread(flask.app, pool=1, replicas=0, DSN=dsn)

        def view() -> str:
            return str(value(flask.db.connection(), PID))

        first = await asyncio.to_thread(flask.ask, app, view)
        await asyncio.sleep(1.1)  # until the connection is trusted no longer
        proxy.black_hole(new_ones_too=False)
        second = await asyncio.to_thread(flask.ask, app, view)
        assert second.status_code == 200
        assert second.text != first.text
        await asyncio.to_thread(flask.close)


def test_a_connection_that_was_just_used_costs_no_round_trip(flask: FlaskScene) -> None:
    app, db = flask.app(pool=1), flask.db
    last = "SELECT query FROM pg_stat_activity WHERE pid = {}"
    pids = []

    def use() -> str:
        pids.append(value(db.connection(), PID))
        return ""

    def look() -> str:
        db.connection()
        with flask.admin() as admin:
            return str(value(admin, last.format(pids[0])))

    flask.ask(app, use)
    flask.all_given_back(app)
    assert "DISCARD TEMP" in flask.ask(app, look).text  # no check has followed it
    flask.all_given_back(app)
    sleep(1.1)  # a connection is trusted for a second
    assert flask.ask(app, look).text == "SELECT 1"


def test_a_connection_lost_in_a_request_is_its_error_and_raised_again(flask: FlaskScene) -> None:
    app, db = flask.app(pool=1), flask.db
    seen: list[BaseException] = []

    def view() -> str:
        connection = db.connection()
        flask.end(value(connection, PID))
        with pytest.raises(LOST) as first:
            value(connection, PID)
        for _ in range(2):
            with pytest.raises(LOST, match=r"of this request .* was lost") as again:
                db.connection()
            seen.append(again.value)
        assert flask.in_flight(app) == 0  # its place is free
        try:
            raise first.value
        finally:
            with pytest.raises(LOST):
                db.connection()

    assert flask.ask(app, view).status_code == 500
    assert seen[0] is seen[1]
    assert flask.ask(app, lambda: str(value(db.connection(), "SELECT 1"))).text == "1"


def test_what_was_raised_for_a_lost_connection_is_what_an_error_handler_gets_again(
    flask: FlaskScene,
) -> None:
    app, db = flask.app(pool=1), flask.db
    raised: list[BaseException] = []

    def view() -> str:
        connection = db.connection()
        flask.end(value(connection, PID))
        return str(value(connection, PID))

    @app.errorhandler(Exception)
    def handler(error: Exception) -> str:
        raised.append(error)
        assert flask.in_flight(app) == 0
        with pytest.raises(LOST) as again:
            db.connection()
        raised.append(again.value)
        return "handled"

    assert flask.ask(app, view).text == "handled"
    assert raised[0] is raised[1]


def test_each_statement_is_committed_by_itself(flask: FlaskScene) -> None:
    app, db, table = flask.app(), flask.db, flask.table()

    def view() -> str:
        execute(db.connection(), table.insert(1))
        assert flask.rows(table) == [1]
        raise ZeroDivisionError

    assert flask.ask(app, view).status_code == 500
    assert flask.rows(table) == [1]


def test_a_transaction_that_a_request_left_open_is_rolled_back(flask: FlaskScene) -> None:
    app, db, table = flask.app(pool=1), flask.db, flask.table()

    def view() -> str:
        execute(db.connection(), f"BEGIN; {table.insert(1)}")
        return ""

    def failing() -> str:
        with pytest.raises(Exception, match="division by zero"):
            execute(db.connection(), f"BEGIN; {table.insert(1)}; SELECT 1/0")
        return ""

    for each in (view, failing):
        assert flask.ask(app, each).status_code == 200
        assert flask.ask(app, lambda: str(value(db.connection(), "SELECT 1"))).text == "1"
    assert flask.rows(table) == []


def test_a_request_has_connections_to_several_clusters(flask: FlaskScene) -> None:
    one = {"dsn": flask.dsn, "driver": flask.driver}
    app, db = flask.app(CLUSTERS={"reports": one}), flask.db

    def view() -> dict[str, bool]:
        mine, reports = db.connection(), db.connection(cluster="reports")
        return {
            "same": value(mine, PID) == value(reports, PID),
            "kept": reports is db.connection(cluster="reports"),
            "managers": db.manager() is db.manager("reports"),
        }

    assert flask.ask(app, view).json == {"same": False, "kept": True, "managers": False}


def test_rows_are_what_the_options_make_of_them(flask: FlaskScene) -> None:
    """The mission's pool made each row a dict."""
    from psycopg.rows import dict_row
    from psycopg2.extras import RealDictCursor

    of_drivers: dict[str, dict[str, Any]] = {
        "psycopg3": {"kwargs": {"row_factory": dict_row}},
        "psycopg2": {"cursor_factory": RealDictCursor},
        "sqlalchemy": {"connect_args": {}},
    }
    options = {"pool_factory_kwargs": of_drivers[flask.driver]}
    app, db = flask.app(OPTIONS=options), flask.db

    def view() -> str:
        row = execute(db.connection(), "SELECT 7 AS answer")[0]
        return str(row.answer if flask.driver == "sqlalchemy" else row["answer"])

    for _ in range(2):
        assert flask.ask(app, view).text == "7"
        flask.all_given_back(app)


# The faults of that pool


def test_an_unknown_cluster_opens_no_connection(flask: FlaskScene) -> None:
    """In that pool, looking up an unknown key opened a connection for it."""
    app, db = flask.app(), flask.db
    with app.app_context():
        with pytest.raises(ValueError, match="no cluster 'report', only 'default'"):
            db.connection(cluster="report")
        assert all(node.pool_used + node.pool_idle == 0 for node in db.stats()["default"].nodes)


def test_connections_are_kept_and_used_again(flask: FlaskScene) -> None:
    """In that pool, 160 checkouts made 122 connects: it kept no more than its minimum."""
    app, db = flask.app(pool=8), flask.db
    pids: set[int] = set()
    together = Barrier(8)

    def view() -> str:
        pids.add(value(db.connection(), PID))
        together.wait(10)
        return ""

    paths = [f"/{number}" for number in range(8)]
    for path in paths:
        app.add_url_rule(path, path, view)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            answers = list(threads.map(lambda path: app.test_client().get(path), paths))
            assert {each.status_code for each in answers} == {200}
    assert len(pids) == 8


def test_an_outage_keeps_nobody_from_giving_back(flask: FlaskScene) -> None:
    """In that pool, a connecting thread held the lock of all, and retried for the whole outage."""
    app, db = flask.app(pool=2, OPTIONS={"acquire_timeout": 4.0}), flask.db
    master = flask.cluster.master
    asked = Event()
    waited: list[float] = []

    def wait() -> None:
        with app.app_context():
            began = monotonic()
            asked.set()
            with pytest.raises(NotAvailableError):
                db.connection()
            waited.append(monotonic() - began)

    with app.app_context():
        value(db.connection(), "SELECT 1")
        master.freeze()
        try:
            with thread(wait):
                assert asked.wait(10)
                began = monotonic()
                with app.app_context():
                    db.connection(read_only=True)
                assert monotonic() - began < 2.0
        finally:
            master.thaw()
    assert waited[0] < 8.0


def test_what_can_never_work_is_told_at_once_and_not_tried_for_ever(flask: FlaskScene) -> None:
    """In that pool, a wrong password was tried again without end."""
    app = library.Flask("refused")
    dsn = flask.dsn.replace("://app", "://nobody")
    options = {"acquire_timeout": 0.3}
    app.config.update(HASQL_DSN=dsn, HASQL_DRIVER=flask.driver, HASQL_OPTIONS=options)
    flask.db.init_app(app)
    flask.apps.append(app)
    began = monotonic()
    answer = flask.ask(app, lambda: str(flask.db.connection()))
    assert answer.status_code == 503
    assert monotonic() - began < 3
    with app.app_context(), pytest.raises(NotAvailableError, match="nobody"):
        flask.db.connection()


def test_a_rollback_that_fails_leaves_the_place_free(flask: FlaskScene) -> None:
    """In that pool, the place stayed taken for good."""
    app, db = flask.app(pool=1), flask.db

    def view() -> str:
        connection = db.connection()
        pid = value(connection, PID)
        execute(connection, "BEGIN")
        flask.end(pid)
        return ""

    for _ in range(3):
        assert flask.ask(app, view).status_code == 200
    flask.all_given_back(app)


LEFT = {
    "a setting": ("SET work_mem = '7MB'", "SELECT current_setting('work_mem') = '7MB'"),
    "a role": ("SET ROLE pg_monitor", "SELECT current_user = 'pg_monitor'"),
    "a listen": ("LISTEN news", "SELECT count(*) > 0 FROM pg_listening_channels()"),
    "an open cursor": (
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SELECT count(*) > 0 FROM pg_cursors WHERE name = 'c'",
    ),
    "an advisory lock": (
        "SELECT pg_advisory_lock(7)",
        "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    ),
    "a temporary table": (
        "CREATE TEMP TABLE t (i int)",
        "SELECT to_regclass('pg_temp.t') IS NOT NULL",
    ),
}
PREPARED = "SELECT count(*) > 0 FROM pg_prepared_statements WHERE name = 'kept'"


@pytest.mark.parametrize("reset", [True, False])
def test_what_a_request_leaves_in_its_session_does_not_reach_the_next(
    flask: FlaskScene, reset: bool
) -> None:
    """In that pool, it did; with `RESET` off it does here, too."""
    with flask.admin() as admin:
        admin.execute("GRANT pg_monitor TO app")
    app, db = flask.app(pool=1, RESET=reset), flask.db
    pids: set[int] = set()

    def leave() -> str:
        pids.add(value(db.connection(), PID))
        for statement, _ in LEFT.values():
            execute(db.connection(), statement)
        execute(db.connection(), "PREPARE kept AS SELECT 1")
        return ""

    def look() -> dict[str, bool]:
        pids.add(value(db.connection(), PID))
        found = {name: value(db.connection(), query) for name, (_, query) in LEFT.items()}
        found["prepared"] = value(db.connection(), PREPARED)
        return found

    assert flask.ask(app, leave).status_code == 200
    assert flask.ask(app, look).json == {**dict.fromkeys(LEFT, not reset), "prepared": True}
    assert len(pids) == 1


@pytest.mark.parametrize("strict", [False, True], ids=["direct", "login takes no settings"])
async def test_after_a_request_the_managers_session_settings_apply_again(
    flask: FlaskScene, strict: bool
) -> None:
    session = SessionDefaults(statement_timeout=5, search_path=["app"])
    shown = {"statement_timeout": "5s", "search_path": "app"}
    pids: set[int] = set()

    def look() -> dict[str, str]:
        connection = flask.db.connection()
        pids.add(value(connection, PID))
        seen = {name: value(connection, f"SHOW {name}") for name in shown}
        execute(connection, "SET statement_timeout = 0; SET search_path = nowhere")
        return seen

    def work(dsn: str) -> None:
        app = flask.app(DSN=dsn, pool=1, replicas=0, OPTIONS={"session": session})
        for _ in range(3):
            assert flask.ask(app, look).json == shown
            flask.all_given_back(app)
        assert len(pids) == 1

    async with StrictProxy(flask.cluster.master) as proxy:
        way = proxy.address if strict else flask.cluster.master
        await asyncio.to_thread(work, dsn_through(flask.cluster, way))
        assert bool(proxy.refused) is strict


def test_each_application_has_pools_of_its_own(flask: FlaskScene) -> None:
    """In that pool, a second `init_app` replaced the pool of the first application."""
    one, other, db = flask.app(pool=1), flask.app(pool=1), flask.db

    def manager(app: Flask) -> Any:
        with app.app_context():
            return db.manager()

    assert manager(one) is not manager(other)
    with one.app_context(), other.app_context():
        mine = value(db.connection(), PID)
        with one.app_context():
            assert value(db.connection(), PID) != mine
        assert value(db.connection(), PID) == mine


def test_an_app_context_is_enough(flask: FlaskScene) -> None:
    """That pool did not work outside of a request."""
    app, db = flask.app(pool=1), flask.db
    for _ in range(2):
        with app.app_context():
            connection = db.connection()
            assert value(connection, "SELECT 1") == 1
            assert db.connection() is connection
    flask.all_given_back(app)
