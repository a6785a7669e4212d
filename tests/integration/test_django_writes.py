"""What hasql.contrib.django takes for a write."""

from __future__ import annotations

import pytest

from hasql.contrib.django.request_writes import is_write
from testbed.growth import TIMES, growth


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "select 1",
        "\n  (SELECT 1) UNION (SELECT 2)",
        "/* of a view\n */ -- and more\n SELECT 1",
        "EXPLAIN SELECT 1",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "SHOW search_path",
        "VALUES (1)",
        "SAVEPOINT s1",
        "RELEASE SAVEPOINT s1",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "DECLARE c CURSOR FOR SELECT 1",
        "/***/ SELECT 1",
        "/* a * b / c */ SELECT 1",
    ],
)
def test_what_changes_nothing_is_no_write(statement: str) -> None:
    assert not is_write(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t VALUES (1)",
        "  update t SET i = 1",
        "/* SELECT */ DELETE FROM t",
        "-- SELECT\nTRUNCATE t",
        "WITH a AS (\nDELETE FROM t RETURNING i) SELECT * FROM a",
        "EXPLAIN ANALYZE DELETE FROM t",
        "EXPLAIN (ANALYZE) DELETE FROM t",
        "EXPLAIN (VERBOSE, ANALYZE) DELETE FROM t",
        "EXPLAIN ANALYSE DELETE FROM t",
        "/* of a view */ DELETE FROM t; /* and more */ SELECT 1",
        "/* /* */ SELECT */ DELETE FROM t",
        "-- a line\rDELETE FROM t -- another\nSELECT 1",
        "/* SELECT 1",
        "-- SELECT 1",
        "CREATE TABLE selected (i int)",
        "SELECTED",
        "COPY t FROM STDIN",
        "CALL p()",
        "",
        b"SELECT 1",
        None,
    ],
)
def test_whatever_else_is_one(statement: object) -> None:
    assert is_write(statement)


@pytest.mark.parametrize(
    "parts",
    [
        ("\n", " ", "UPDATE t SET i = 1"),
        ("\n", " ", "SELECT 1"),
        ("", "\n", ""),
        ("", "(", "UPDATE t SET i = 1"),
        ("", "/**/", "UPDATE t SET i = 1"),
        ("", "-- a line\n", "UPDATE t SET i = 1"),
        ("/*", "*", ""),
        ("/*", "/*", ""),
        ("", "/* ", "UPDATE t SET i = 1"),
        ("--", " ", ""),
        ("EXPLAIN", " ", "UPDATE t SET i = 1"),
        ("EXPLAIN (", " ", "VERBOSE) UPDATE t SET i = 1"),
        ("WITH", " ", "a"),
        ("WITH ", "inserted, ", "a"),
    ],
    ids=repr,
)
def test_a_statement_takes_no_longer_than_its_length_says(parts: tuple[str, str, str]) -> None:
    """The thread that executes it has the interpreter to itself until it is through."""
    assert growth(is_write, parts) < 3 * TIMES
