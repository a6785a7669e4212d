"""What error codes mean, and error texts where a pooler uses one code for all errors."""

from __future__ import annotations

import pytest

from hasql.driver import Failure
from hasql.driver.failure import SessionLimitError


@pytest.mark.parametrize(
    ("sqlstate", "failure"),
    [
        ("08006", Failure.BROKEN),
        ("57P01", Failure.BROKEN),
        ("57P05", Failure.LIMIT),
        ("25P03", Failure.LIMIT),
        ("25P04", Failure.LIMIT),
        ("25006", Failure.READ_ONLY),
        ("53300", Failure.FULL),
        ("57014", Failure.OTHER),
        ("28P01", Failure.REFUSED),
        ("3D000", Failure.REFUSED),
        ("42501", Failure.STATEMENT),
        ("26000", Failure.STATEMENT),  # a prepared statement of another session of the server
        ("42P05", Failure.STATEMENT),
    ],
)
def test_a_code_says_what_is_the_matter(sqlstate: str, failure: Failure) -> None:
    assert Failure.of_sqlstate(sqlstate) is failure


@pytest.mark.parametrize(
    ("words", "failure"),
    [
        ("query_wait_timeout", Failure.FULL),
        ("no more connections allowed (max_client_conn)", Failure.FULL),
        ("server login failed: FATAL the database system is starting up", Failure.BROKEN),
        ("server login has been failing, try again later (server_login_retry)", Failure.BROKEN),
        ("server conn crashed?", Failure.BROKEN),
        ("client_login_timeout (server down)", Failure.BROKEN),
        ("no such database: x", Failure.REFUSED),
        ("SASL authentication failed", Failure.REFUSED),
        ("idle transaction timeout", Failure.LIMIT),
        ("query timeout", Failure.LIMIT),
        ("client_idle_timeout", Failure.LIMIT),
        (
            "bind message supplies 1 parameters, but",
            Failure.STATEMENT,
        ),
        ("", Failure.BROKEN),
    ],
)
def test_a_pooler_is_known_by_its_words(words: str, failure: Failure) -> None:
    assert Failure.of_sqlstate("08P01", words) is failure


def test_a_session_that_has_come_to_its_limit_tells_nothing_else() -> None:
    assert Failure.of_exception(SessionLimitError()) is Failure.LIMIT
