"""`HASQL_TRANSACTIONS = "request"` makes each request one transaction; when and how it ends."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click
import flask as library
import psycopg
import psycopg2
import pytest
import sqlalchemy.exc
from flask import Response, stream_with_context

from hasql import HasqlError, NotAvailableError
from tests.flask_scene import FlaskScene, execute, value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

    from testbed.scene import Table

PID = "SELECT pg_backend_pid()"
DRIVERS_ERRORS = (psycopg.Error, psycopg2.Error, sqlalchemy.exc.SQLAlchemyError)


@pytest.fixture
def app(flask: FlaskScene) -> Flask:
    """An application whose requests are transactions, with one connection on each host."""
    return flask.app(pool=1, TRANSACTIONS="request")


@pytest.fixture
def table(flask: FlaskScene) -> Table:
    return flask.table()


def insert(flask: FlaskScene, table: Table, number: int = 1) -> None:
    execute(flask.db.connection(), table.insert(number))


def test_it_is_committed_before_the_response_is_sent(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    seen = []

    def view() -> str:
        insert(flask, table, 1)
        insert(flask, table, 2)
        assert flask.rows(table) == []
        return ""

    inner = app.wsgi_app

    def watching(environ: Any, start_response: Any) -> Any:
        def start(*args: Any) -> Any:
            seen.append(flask.rows(table))
            return start_response(*args)

        return inner(environ, start)

    app.wsgi_app = watching  # type: ignore[method-assign]  # as middleware is installed
    assert flask.ask(app, view).status_code == 200
    assert seen == [[1, 2]]


@pytest.mark.parametrize(("status", "kept"), [(200, [1]), (404, [1]), (500, []), (503, [])])
def test_the_status_that_a_view_returned_decides(
    flask: FlaskScene, app: Flask, table: Table, status: int, kept: list[int]
) -> None:
    def view() -> tuple[str, int]:
        insert(flask, table)
        return "", status

    assert flask.ask(app, view).status_code == status
    assert flask.rows(table) == kept


def test_what_was_raised_is_rolled_back_whatever_a_handler_makes_of_it(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    @app.errorhandler(ZeroDivisionError)
    def handled(_: ZeroDivisionError) -> str:
        assert value(flask.db.connection(), "SELECT 1") == 1  # it is rolled back already
        insert(flask, table, 2)
        return "well"

    def broken() -> NoReturn:
        insert(flask, table)
        raise ZeroDivisionError

    def failed() -> NoReturn:
        insert(flask, table)
        with pytest.raises(DRIVERS_ERRORS):
            execute(flask.db.connection(), "SELECT 1/0")
        raise ZeroDivisionError

    def refused() -> NoReturn:
        insert(flask, table)
        library.abort(404)

    answers = [flask.ask(app, view) for view in (broken, failed, refused)]
    assert [each.status_code for each in answers] == [200, 200, 404]
    assert [each.text for each in answers[:2]] == ["well"] * 2
    assert flask.rows(table) == []


@contextmanager
def savepoint(connection: Any) -> Iterator[None]:
    """Enter a savepoint by the means of the driver; for psycopg2, in SQL."""
    if isinstance(connection, psycopg.Connection):
        with connection.transaction():
            yield
    elif not isinstance(connection, psycopg2.extensions.connection):
        with connection.begin_nested():
            yield
    else:
        execute(connection, "SAVEPOINT s")
        try:
            yield
        except BaseException:
            execute(connection, "ROLLBACK TO SAVEPOINT s")
            raise
        execute(connection, "RELEASE SAVEPOINT s")


def test_what_finds_no_host_behind_a_view_has_that_rolled_back(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    @app.after_request
    def raising(_: Any) -> NoReturn:
        raise NotAvailableError("no host")

    def view() -> str:
        insert(flask, table, 1)
        return "well"

    answer = flask.ask(app, view)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    flask.all_given_back(app)
    assert flask.rows(table) == []


def test_a_savepoint_is_none_of_its_own_as_the_first_that_a_request_does(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    def failing() -> NoReturn:
        with savepoint(flask.db.connection()):
            insert(flask, table, 1)
        raise ZeroDivisionError

    def refused() -> NoReturn:
        connection = flask.db.connection()
        with savepoint(connection), savepoint(connection):
            insert(flask, table, 2)
        library.abort(409)

    def unavailable() -> tuple[str, int]:
        with savepoint(flask.db.connection()):
            insert(flask, table, 3)
        return "", 503

    def committing() -> NoReturn:
        connection = flask.db.connection()
        with savepoint(connection):
            insert(flask, table, 4)
        connection.commit()
        with savepoint(connection):
            insert(flask, table, 5)
        raise ZeroDivisionError

    views = (failing, refused, unavailable, committing)
    assert [flask.ask(app, view).status_code for view in views] == [500, 409, 503, 500]
    flask.all_given_back(app)
    assert flask.rows(table) == [4]


def test_what_fails_in_a_savepoint_fails_no_more_of_its_request(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    def view() -> str:
        connection = flask.db.connection()
        with pytest.raises(ZeroDivisionError), savepoint(connection):
            insert(flask, table, 1)
            raise ZeroDivisionError
        with savepoint(connection):
            insert(flask, table, 2)
        assert flask.rows(table) == []
        return "well"

    for _ in range(2):
        assert flask.ask(app, view).text == "well"
        assert flask.rows(table) == [2]
        with flask.admin() as admin:
            admin.execute(f"TRUNCATE {table.name}")


def test_a_commit_that_fails_is_that_requests_error(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    @app.errorhandler(500)
    def handled(error: Any) -> tuple[str, int]:
        return type(error.original_exception).__name__, 500

    def view() -> str:
        insert(flask, table)
        insert(flask, table)  # the constraint is checked at the commit
        return "well"

    answer = flask.ask(app, view)
    assert answer.status_code == 500
    assert answer.text in {"UniqueViolation", "IntegrityError"}
    assert flask.rows(table) == []
    flask.all_given_back(app)


def test_a_view_that_swallowed_a_failed_statement_is_not_reported_as_done(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    app.testing = True

    def view() -> str:
        insert(flask, table)
        with pytest.raises(DRIVERS_ERRORS):
            execute(flask.db.connection(), "SELECT 1/0")
        return "well"

    with pytest.raises(HasqlError, match="rolled back, not committed"):
        flask.ask(app, view)
    app.testing = False
    assert flask.ask(app, view).status_code == 500
    assert flask.rows(table) == []


def test_a_lost_connection_is_no_success(flask: FlaskScene, app: Flask, table: Table) -> None:
    def view() -> str:
        insert(flask, table)
        flask.end(value(flask.db.connection(), PID))
        with pytest.raises(DRIVERS_ERRORS):
            execute(flask.db.connection(), "SELECT 1")
        return "well"

    assert flask.ask(app, view).status_code == 500
    assert flask.rows(table) == []
    assert flask.ask(app, lambda: str(value(flask.db.connection(), "SELECT 1"))).text == "1"


def test_what_fails_after_the_view_is_rolled_back(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    @app.after_request
    def after(_: Response) -> NoReturn:
        assert value(flask.db.connection(), table.count) == 1
        raise ZeroDivisionError

    def view() -> str:
        insert(flask, table)
        return "well"

    assert flask.ask(app, view).status_code == 500
    assert flask.rows(table) == []


def test_the_functions_after_a_request_are_part_of_it(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    @app.after_request
    def after(response: Response) -> Response:
        insert(flask, table, 2)
        return response

    def view() -> str:
        insert(flask, table, 1)
        return "well"

    assert flask.ask(app, view).status_code == 200
    assert flask.rows(table) == [1, 2]


def test_a_request_that_is_broken_off_is_rolled_back(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    """A worker's timeout breaks a request off, and so does gevent when it ends a greenlet."""

    def view() -> NoReturn:
        insert(flask, table)
        raise SystemExit

    with pytest.raises(SystemExit):
        flask.ask(app, view)
    flask.all_given_back(app)
    assert flask.rows(table) == []


def test_an_app_context_within_a_request_has_a_transaction_of_its_own(
    flask: FlaskScene, table: Table
) -> None:
    app = flask.app(pool=2, TRANSACTIONS="request")

    def view() -> NoReturn:
        insert(flask, table, 1)
        with app.app_context():
            insert(flask, table, 2)
        assert flask.rows(table) == [2]
        with pytest.raises(KeyError), app.app_context():
            insert(flask, table, 3)
            raise KeyError
        raise ZeroDivisionError

    assert flask.ask(app, view).status_code == 500
    assert flask.rows(table) == [2]


def test_outside_of_a_request_it_ends_with_the_app_context(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    with app.app_context():
        insert(flask, table, 1)
        assert flask.rows(table) == []
    assert flask.rows(table) == [1]
    with pytest.raises(ZeroDivisionError), app.app_context():
        insert(flask, table, 2)
        raise ZeroDivisionError
    with pytest.raises(DRIVERS_ERRORS), app.app_context():
        insert(flask, table, 1)
    flask.all_given_back(app)
    assert flask.rows(table) == [1]


def test_a_command_that_fails_half_way_is_rolled_back(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    @app.cli.command("load")
    @click.argument("number", type=int)
    def load(number: int) -> None:
        insert(flask, table, number)
        if number > 1:
            raise ZeroDivisionError

    run = app.test_cli_runner().invoke
    assert [run(args=["load", each]).exit_code for each in "12"] == [0, 1]
    flask.all_given_back(app)
    assert flask.rows(table) == [1]


def test_what_ends_a_command_is_known_where_its_app_context_is_not_told(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    """click before 8.3 closes the app context without telling it of the exception."""

    def command(number: int, error: type[Exception] | None) -> None:
        with click.Context(click.Command("load")), ExitStack() as opened:
            opened.enter_context(app.app_context())
            try:
                insert(flask, table, number)
                if error is not None:
                    raise error
            finally:
                opened.close()  # without the exception

    command(1, None)
    for error in (ZeroDivisionError, click.Abort):
        with pytest.raises(error):
            command(2, error)
    try:
        int("none")
    except ValueError:  # handled, and not the command's
        command(3, None)
    flask.all_given_back(app)
    assert flask.rows(table) == [1, 3]


def test_requests_within_one_app_context_are_transactions_of_their_own(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    """A test may send requests within an app context, and use the context's connection as well."""

    def well() -> str:
        insert(flask, table, 1)
        return ""

    def broken() -> NoReturn:
        insert(flask, table, 2)
        raise ZeroDivisionError

    with app.app_context():
        assert flask.ask(app, well).status_code == 200
        assert flask.rows(table) == [1]
        assert flask.ask(app, broken).status_code == 500
        assert value(flask.db.connection(), table.count) == 1
        app.testing = True
        with pytest.raises(ZeroDivisionError):
            flask.ask(app, broken)
    assert flask.rows(table) == [1]


def test_a_streamed_response_takes_what_it_needs_from_the_manager(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    in_flight = []

    def view() -> Response:
        insert(flask, table)
        manager = flask.db.manager()

        def parts() -> Iterator[str]:
            flask.all_given_back(app)
            with manager.acquire_master() as connection:
                in_flight.append(flask.in_flight(app))
                yield str(value(connection, table.count))

        return Response(parts())

    assert flask.ask(app, view).text == "1"  # the insert was committed before
    assert in_flight == [1]
    flask.all_given_back(app)


def test_a_stream_that_keeps_its_context_ends_what_it_began(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    def view() -> Response:
        insert(flask, table, 1)

        def parts() -> Iterator[str]:
            assert flask.rows(table) == [1]
            insert(flask, table, 2)
            yield "part"

        return Response(stream_with_context(parts()))

    assert flask.ask(app, view).text == "part"
    flask.all_given_back(app)
    assert flask.rows(table) == [1, 2]


def test_what_a_request_commits_by_itself_is_committed(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    def view() -> NoReturn:
        insert(flask, table, 1)
        flask.db.connection().commit()
        insert(flask, table, 2)
        raise ZeroDivisionError

    assert flask.ask(app, view).status_code == 500
    assert flask.rows(table) == [1]


def test_each_cluster_has_a_way_of_its_own(flask: FlaskScene, table: Table) -> None:
    other = {"dsn": flask.dsn, "driver": flask.driver, "transactions": "request"}
    app = flask.app(CLUSTERS={"other": other})

    def view() -> NoReturn:
        insert(flask, table, 1)
        execute(flask.db.connection(cluster="other"), table.insert(2))
        raise ZeroDivisionError

    assert flask.ask(app, view).status_code == 500
    assert flask.rows(table) == [1]
