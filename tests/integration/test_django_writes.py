"""Which statements hasql.contrib.django takes for writes."""

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
        "SELECT 1;",
        "SET LOCAL statement_timeout = 1000; SELECT 1",
        "BEGIN; SELECT 1; COMMIT; -- and no more",
        "BEGIN; SELECT 1; END",
        "SELECT ';', 'it''s; INTO' AS \"into\" -- ; INTO\n FROM t /* INTO; */",
        r"SELECT 'C:\into;'",
        "SELECT into_stock FROM pinto",
        "SELECT i FROM t FOR UPDATE",
        "WITH a AS (SELECT 'DELETE', updated FROM t) SELECT * FROM a",
        "EXPLAIN SELECT 'ANALYZE'",
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
        "SET LOCAL statement_timeout = 1000; INSERT INTO t VALUES (1)",
        "BEGIN; UPDATE t SET i = 1; COMMIT",
        "SELECT 1; DELETE FROM t",
        "SELECT 1;DELETE FROM t",
        "SELECT 1; /* of a view */ -- ;\n (DELETE FROM t)",
        "SELECT 'a'; DELETE FROM t; SELECT 'b'",
        'SELECT 1 AS "a"; DELETE FROM t; SELECT 1 AS "b"',
        "SELECT 1 -- '\n; DELETE FROM t -- '",
        "SELECT 1 /* ' */; DELETE FROM t /* ' */",
        "SELECT 1 /* /* */ ' */; DELETE FROM t /* ' */",
        r"SELECT E'\''; DELETE FROM t; SELECT ''''",
        r"SELECT '\'; DELETE FROM t; SELECT ''''",
        r"SELECT '\\'; DELETE FROM t; SELECT ''''",
        "SELECT $$'$$; DELETE FROM t; SELECT $$'$$",
        "SELECT $a$'$a$; DELETE FROM t; SELECT $a$'$a$",
        "SELECT * INTO t FROM s",
        "SELECT * into\nt FROM s",
        'SELECT * INTO"t"FROM s',
        "SELECT 1; SELECT * INTO t FROM s",
        "WITH a AS (SELECT 1) SELECT * INTO t FROM a",
        "SELECT 1; EXPLAIN ANALYZE DELETE FROM t",
        "COMMIT PREPARED 'a'",
        ";",
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
        ("SELECT 1 FROM into_", ", into_", ""),
        ("SELECT 1", ";", ""),
        ("SELECT 1", "; SELECT 1", ""),
        ("SELECT ", "';', ", "1"),
        ("SELECT ';", "''", ""),
        ("SELECT ;", r"'\'", ""),
        ("SELECT ;", r"\'", ""),
        ("SELECT ';", "\\", ""),
        ("SELECT ;", '"', ""),
        ("SELECT 1;", "/*", ""),
        ("SELECT 1;/*", "*", ""),
        ("SELECT 1;", "/* ", ""),
        ("SELECT 1;", "-- a line\n", ""),
        ("SELECT 1;", "- ", ""),
        ("SELECT 1;", "$a", ""),
    ],
    ids=repr,
)
def test_a_statement_takes_no_longer_than_its_length_says(parts: tuple[str, str, str]) -> None:
    """While a thread examines a statement, no other thread runs."""
    assert growth(is_write, parts) < 3 * TIMES
