"""Notices and notifications of a server reach the request that they are for, and no other one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.flask_scene import FlaskScene, execute, value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hasql.testing import LocalCluster

PID = "SELECT pg_backend_pid()"
WARN = "DO $$ BEGIN RAISE WARNING 'warned'; END $$"


@pytest.fixture(params=["psycopg3", "sqlalchemy"])
def psycopg3(
    request: pytest.FixtureRequest, pg_cluster: LocalCluster, application: str
) -> Iterator[FlaskScene]:
    """Applications over psycopg 3."""
    scene = FlaskScene(pg_cluster, request.param, application)
    yield scene
    scene.close()


def raw_of(flask: FlaskScene) -> Any:
    """Return the driver's connection of this request."""
    connection = flask.db.connection()
    return connection.connection.driver_connection if flask.driver == "sqlalchemy" else connection


def pending(raw: Any) -> list[str]:
    """Return the payloads of the notifications that a connection has."""
    if hasattr(raw, "poll"):
        raw.poll()
        return [each.payload for each in raw.notifies]
    return [each.payload for each in raw.notifies(timeout=0.1)]


def notice_handlers(raw: Any) -> int:
    """Count the notice handlers of a connection; psycopg has no public way to do so."""
    return len(raw._notice_handlers)  # noqa: SLF001  # as above


def one_after_the_other(flask: FlaskScene, *views: Callable[[], Any], **settings: Any) -> None:
    """Let each view answer one request of the same application, on one connection."""
    app = flask.app(pool=1, **settings)
    app.testing = True  # errors of a view are raised here
    pids: set[int] = set()

    def answer(view: Callable[[], Any]) -> str:
        pids.add(value(flask.db.connection(), PID))
        view()
        return "done"

    for view in views:
        assert flask.ask(app, partial(answer, view)).text == "done"
        flask.all_given_back(app)
    assert len(pids) == 1


def test_notifications_of_a_request_do_not_reach_the_next(flask: FlaskScene) -> None:
    def listen() -> None:
        execute(flask.db.connection(), "LISTEN news")
        execute(flask.db.connection(), "NOTIFY news, 'came with an answer'")
        execute(flask.db.connection(), "SELECT 1")
        with flask.admin() as admin:
            admin.execute("NOTIFY news, 'came after the last answer'")

    def look() -> None:
        execute(flask.db.connection(), "LISTEN news")
        assert pending(raw_of(flask)) == []
        execute(flask.db.connection(), "NOTIFY news, 'of this request'")
        assert pending(raw_of(flask)) == ["of this request"]

    one_after_the_other(flask, listen, look, look)


def test_handlers_of_a_request_are_not_told_of_the_next(psycopg3: FlaskScene) -> None:
    """Only hasql's handler, which sees a server end a connection, and SQLAlchemy's remain."""
    told: list[Any] = []
    counts: list[int] = []

    def handle() -> None:
        counts.append(notice_handlers(raw_of(psycopg3)))
        raw_of(psycopg3).add_notice_handler(told.append)
        raw_of(psycopg3).add_notify_handler(told.append)
        execute(psycopg3.db.connection(), f"LISTEN news; NOTIFY news; {WARN}")
        assert len(told) == 2
        told.clear()

    def say() -> None:
        counts.append(notice_handlers(raw_of(psycopg3)))
        execute(psycopg3.db.connection(), f"LISTEN news; {WARN}; NOTIFY news, 'mine'")
        assert pending(raw_of(psycopg3)) == ["mine"]

    one_after_the_other(psycopg3, handle, say)
    assert told == []
    assert counts == 2 * [1 if psycopg3.driver == "psycopg3" else 2]


def test_handlers_that_a_request_has_removed_or_replaced_are_as_before(
    pg_cluster: LocalCluster, application: str
) -> None:
    scene = FlaskScene(pg_cluster, "psycopg3", application)
    told: list[str] = []

    def hear(notice: Any) -> None:
        told.append(notice.message_primary)

    def remove() -> None:
        raw_of(scene).remove_notice_handler(hear)

    def replace() -> None:
        remove()
        raw_of(scene).add_notice_handler(hear)
        raw_of(scene).add_notice_handler(hear)
        remove()

    def say() -> None:
        execute(scene.db.connection(), WARN)
        assert told == ["warned"]
        told.clear()

    def configure(connection: Any) -> None:
        connection.add_notice_handler(hear)

    options = {"pool_factory_kwargs": {"min_size": 0, "max_size": 1, "configure": configure}}
    one_after_the_other(scene, remove, say, replace, say, OPTIONS=options)
    scene.close()


def test_handlers_go_without_a_reset_as_well(psycopg3: FlaskScene) -> None:
    """Handlers are functions of a request that is over, not part of its session on the server."""
    told: list[Any] = []

    def handle() -> None:
        raw_of(psycopg3).add_notice_handler(told.append)

    one_after_the_other(
        psycopg3, handle, lambda: execute(psycopg3.db.connection(), WARN), RESET=False
    )
    assert told == []


@pytest.mark.parametrize("reset", [True, False])
def test_handlers_that_configure_has_added_stay_and_do_not_become_more(
    pg_cluster: LocalCluster, application: str, reset: bool
) -> None:
    scene = FlaskScene(pg_cluster, "psycopg3", application)
    told: list[str] = []

    def configure(connection: Any) -> None:
        connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
        connection.add_notify_handler(lambda notify: told.append(notify.payload))

    def say() -> None:
        execute(scene.db.connection(), f"LISTEN news; NOTIFY news, 'it'; {WARN}")

    options = {"pool_factory_kwargs": {"min_size": 0, "max_size": 1, "configure": configure}}
    one_after_the_other(scene, say, say, say, OPTIONS=options, RESET=reset)
    scene.close()
    assert sorted(told) == 3 * ["it"] + 3 * ["warned"]


def test_notices_of_a_request_do_not_reach_the_next(
    pg_cluster: LocalCluster, application: str
) -> None:
    """psycopg2 keeps notices in a list, which a request may replace with its own."""
    scene = FlaskScene(pg_cluster, "psycopg2", application)
    own: list[str] = []

    def say() -> None:
        execute(scene.db.connection(), WARN)
        assert len(raw_of(scene).notices) == 1

    def replace() -> None:
        assert raw_of(scene).notices == []
        raw_of(scene).notices = own

    one_after_the_other(scene, say, replace, say)
    scene.close()
    assert own == []
