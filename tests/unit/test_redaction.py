"""Redaction of long texts, and of secrets that are hard to find."""

from __future__ import annotations

from functools import partial

import pytest

from hasql.cluster.redaction import redact
from testbed.growth import TIMES, growth

SECRETS = ("s3cr-et\\s3cr-et", r"\a" * 10, "\\" * 10)


@pytest.mark.parametrize(
    "parts",
    [
        ("password=", "]", "a"),
        ("password=", "]", ""),
        ("password=", "]a", "\\"),
        ("password=", r"a\b", ""),
        ("password", " ", "x"),
        ("password:", " ", "x"),
        ("password=", " ", "x"),
        ("password='", "a", ""),
        ("password='", "\\", ""),
        ("", "password ", ""),
        ("", "password=a ", ""),
        ("?", "password", ""),
        ("", "://a:", ""),
        ("://a:", "@", ""),
        (":", "\\", "x"),
        (":", r"\\\a", "x"),
    ],
    ids=repr,
)
def test_a_text_takes_no_longer_than_its_length_says(parts: tuple[str, str, str]) -> None:
    """The text may be an error that contains what somebody has sent to the application."""
    assert growth(partial(redact, secrets=SECRETS, names=()), parts) < 3 * TIMES


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{f(password=ab]c)} failed", "{f(password=***)} failed"),
        ("password=ab", "password=***"),
        ("password=] failed", "password=*** failed"),
        (r"password=a\ b failed", "password=*** failed"),
        ("password=ab\\", "password=***"),
    ],
)
def test_a_value_ends_where_what_is_around_it_is_closed(text: str, shown: str) -> None:
    assert redact(text, (), ()) == shown


@pytest.mark.parametrize("secret", [r"a\\b1_", r"\x1_yz", "z1_x\\"])
def test_backslashes_of_a_secret_are_found_however_they_are_escaped(secret: str) -> None:
    once = secret.replace("\\", r"\\")
    for spelt in (secret, once, once.replace("\\", r"\\"), secret.replace("\\", "%5C")):
        assert redact(f"at ://me:{spelt}@db1", (secret,), ()) == "at ://me:***@db1"
        assert redact(f"password = '{spelt}' is", (secret,), ()) == "password = '***' is"
