"""Flask over SQLAlchemy: `begin` makes a transaction; without it each statement is committed."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.orm import Session

from tests.flask_scene import FlaskScene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from sqlalchemy import Connection

    from hasql.testing import LocalCluster
    from testbed.scene import Table


@pytest.fixture(params=["postgresql+psycopg", "postgresql+psycopg2"])
def flask(
    request: pytest.FixtureRequest, pg_cluster: LocalCluster, application: str
) -> Iterator[FlaskScene]:
    """Applications over SQLAlchemy, with psycopg 3 or psycopg2 beneath it."""
    scene = FlaskScene(pg_cluster, "sqlalchemy", application)
    scene.dsn = scene.dsn.replace("postgresql", request.param, 1)
    with closing(scene):
        yield scene


@pytest.fixture
def app(flask: FlaskScene) -> Flask:
    return flask.app(pool=1)


@pytest.fixture
def table(flask: FlaskScene) -> Table:
    return flask.table()


def insert(connection: Connection, table: Table, number: int) -> None:
    connection.exec_driver_sql(table.insert(number))


def in_block(connection: Connection, table: Table) -> None:
    with connection.begin():
        insert(connection, table, 1)
        raise ZeroDivisionError


def by_methods(connection: Connection, table: Table) -> None:
    connection.begin()
    insert(connection, table, 1)
    connection.rollback()
    connection.begin()
    insert(connection, table, 2)


def in_session(connection: Connection, table: Table) -> None:
    with Session(connection) as session, session.begin():
        session.execute(text(table.insert(1)))
        raise ZeroDivisionError


def in_session_of_its_own_accord(connection: Connection, table: Table) -> None:
    with Session(connection) as session:
        session.execute(text(table.insert(1)))
        raise ZeroDivisionError


def behind_one_that_is_closed_late(connection: Connection, table: Table) -> None:
    first = connection.begin()
    first.commit()
    with connection.begin():
        first.close()
        insert(connection, table, 1)
        raise ZeroDivisionError


def in_block_that_closes(connection: Connection, table: Table) -> None:
    with connection:
        connection.begin()
        insert(connection, table, 1)


def that_cannot_commit(connection: Connection, table: Table) -> None:
    with pytest.raises(IntegrityError), connection.begin():
        insert(connection, table, 1)
        insert(connection, table, 1)  # the constraint is checked at the commit


def with_a_failing_statement(connection: Connection, table: Table) -> None:
    with pytest.raises(ProgrammingError), connection.begin():
        insert(connection, table, 1)
        connection.exec_driver_sql("SELECT nothing")


FAILING = (
    *(in_block, by_methods, in_session, in_session_of_its_own_accord, in_block_that_closes),
    *(behind_one_that_is_closed_late, that_cannot_commit, with_a_failing_statement),
)


@pytest.mark.parametrize("work", FAILING)
@pytest.mark.parametrize("used_before", [False, True])
def test_what_is_begun_and_not_committed_leaves_nothing(
    flask: FlaskScene,
    app: Flask,
    table: Table,
    work: Callable[[Any, Table], None],
    used_before: bool,
) -> None:
    def view() -> str:
        connection = flask.db.connection()
        if used_before:  # for SQLAlchemy, this begins a transaction
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        work(connection, table)
        return ""

    assert flask.ask(app, view).status_code in {200, 500}
    flask.all_given_back(app)
    assert flask.rows(table) == []


def test_what_is_begun_is_committed_at_its_end_and_other_statements_by_themselves(
    flask: FlaskScene, app: Flask, table: Table
) -> None:
    def alone(number: int) -> None:
        insert(flask.db.connection(), table, number)
        assert number in flask.rows(table)

    def view() -> str:
        connection = flask.db.connection()
        alone(1)
        with connection.begin():
            insert(connection, table, 2)
            with pytest.raises(ZeroDivisionError), connection.begin_nested():
                insert(connection, table, 3)
                raise ZeroDivisionError
            assert flask.rows(table) == [1]
        assert flask.rows(table) == [1, 2]
        alone(4)
        with Session(connection) as session:
            session.execute(text(table.insert(5)))
            assert 5 not in flask.rows(table)
            session.commit()
            assert 5 in flask.rows(table)
        alone(6)
        with pytest.raises(ZeroDivisionError), connection.begin():
            raise ZeroDivisionError
        with pytest.raises(IntegrityError), connection.begin():
            insert(connection, table, 1)
        alone(7)
        connection.commit()  # of nothing, as in "commit as you go"
        alone(8)
        assert not connection.in_transaction()
        connection.execution_options(isolation_level="SERIALIZABLE")
        with pytest.raises(ZeroDivisionError), connection.begin():
            insert(connection, table, 9)
            level = connection.exec_driver_sql("SHOW transaction_isolation").scalar()
            assert level == "serializable"
            raise ZeroDivisionError
        return "well"

    assert flask.ask(app, view).text == "well"
    flask.all_given_back(app)
    assert flask.rows(table) == [1, 2, 4, 5, 6, 7, 8]
