"""Session defaults: which values a user may give, and how they are sent to a server."""

from __future__ import annotations

from typing import Any

import pytest

from hasql.driver.session_settings import SessionSettings
from hasql.errors import ConfigurationError
from hasql.resilience import SessionDefaults


@pytest.mark.parametrize(
    ("given", "names", "error"),
    [
        ({"statement_timeout": "5s"}, "statement_timeout must be a number of seconds", TypeError),
        ({"lock_timeout": -1}, "lock_timeout must be at least 0 seconds", ConfigurationError),
        ({"idle_in_transaction_timeout": 3e6}, "at most 2147483 seconds", ConfigurationError),
        ({"application_name": 7}, "application_name must be a str", TypeError),
        ({"application_name": "n" * 64}, "63 printable characters of ASCII", ConfigurationError),
        ({"application_name": "naïve"}, "63 printable characters of ASCII", ConfigurationError),
        ({"search_path": "app"}, r"a sequence of schemas, such as \['app', 'public'\]", TypeError),
        ({"search_path": {"app"}}, "a sequence of schemas", TypeError),
        ({"search_path": ["app", 7]}, "names of schemas, not 7", TypeError),
        ({"search_path": ["app", ""]}, "each of 1 to 63 bytes", ConfigurationError),
        ({"search_path": ["ä" * 32]}, "each of 1 to 63 bytes", ConfigurationError),
        ({"enforce_read_only": 1}, "enforce_read_only must be True or False", TypeError),
    ],
)
def test_what_no_server_takes_is_refused(
    given: dict[str, Any], names: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=names):
        SessionDefaults(**given)


def test_times_are_whole_milliseconds_and_never_off_by_being_short() -> None:
    given = SessionDefaults(statement_timeout=0.0001, lock_timeout=0, search_path=())
    assert given.parameters() == {
        "statement_timeout": "1",
        "lock_timeout": "0",
        "search_path": "",
    }


def test_a_changed_list_changes_nothing() -> None:
    path = ["app"]
    given = SessionDefaults(search_path=path)
    path.append("other")
    assert given.parameters() == {"search_path": "app"}


@pytest.mark.parametrize(
    "options",
    ["-c lock_timeout=1", "-clock_timeout=1", "--lock_timeout=1", "--lock-timeout=1 -c jit=off"],
)
def test_a_setting_is_found_however_options_spell_it(options: str) -> None:
    settings = SessionSettings({"lock_timeout": "2"})
    with pytest.raises(ConfigurationError, match="sets lock_timeout to '2', and the DSN to '1'"):
        settings.check({"options": options}, "the DSN")
    SessionSettings({"lock_timeout": "1"}).check({"options": options}, "the DSN")


def test_what_a_connection_lacks_is_told_by_a_number_of_rows() -> None:
    settings = SessionSettings({"a": "1", "b": "2", "c": "3"})
    assert settings.lacking(1) == ()
    assert settings.lacking(1 + 2 + 8) == ("a", "c")


def test_what_comes_before_a_setting_that_was_refused_may_still_be_named() -> None:
    settings = SessionSettings(
        SessionDefaults(
            statement_timeout=1, lock_timeout=2, application_name="a", search_path=["b"]
        ).parameters()
    )
    for words in (
        "unsupported startup parameter: statement_timeout",
        "FATAL:  unsupported startup parameter in options: statement_timeout",
    ):
        fewer = settings.before_refused(words)
        assert dict(fewer.parameters) == {"application_name": "a", "search_path": "b"}
    fewer = fewer.before_refused("unsupported startup parameter: search_path")
    assert dict(fewer.parameters) == {"application_name": "a"}
    assert not settings.before_refused("unsupported startup parameter: options")
    assert not settings.before_refused("unsupported startup parameter: max_lock_timeout")


def test_what_a_pooler_tracks_has_to_be_made_once_more_after_a_reset() -> None:
    settings = SessionSettings({"application_name": "a", "search_path": "b", "lock_timeout": "1"})
    assert settings.made_behind_pooler(1).undone_by_reset == ("application_name", "search_path")
    made = settings.made_behind_pooler(1 + 4 + 8)
    assert made.lacking == ("search_path", "lock_timeout")
    assert made.undone_by_reset == ("application_name",)
