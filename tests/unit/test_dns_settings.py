"""The settings of a resolver: from its user, and from the hosts file."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from hasql import ConfigurationError
from hasql.dns.changing_file import ChangingFile
from hasql.dns.hosts_file import read_hosts
from hasql.dns.nameservers import Nameserver, parse_nameservers
from hasql.dns.settings import ResolverSettings

if TYPE_CHECKING:
    from pathlib import Path

GOOD: dict[str, Any] = {
    "timeout": 12.0,
    "nameservers": None,
    "grace_ttl": 30,
    "fallback": True,
    "max_retries": 3,
    "extend_grace": True,
}


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("10.0.0.2", "10.0.0.2", 53),
        ("10.0.0.2:5353", "10.0.0.2", 5353),
        ("[::1]", "::1", 53),
        ("[::1]:5353", "::1", 5353),
        (" 10.0.0.2 ", "10.0.0.2", 53),
    ],
)
def test_a_nameserver_is_an_address_with_or_without_a_port(
    text: str, address: str, port: int
) -> None:
    servers = parse_nameservers("nameservers", [text])
    assert servers == (Nameserver(address, port),)
    assert parse_nameservers("nameservers", [str(Nameserver(address, port))]) == servers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dns.example.com",
        "10.0.0",
        "10.0.0.2:",
        "10.0.0.2:0",
        "10.0.0.2:65536",
        "10.0.0.2:dns",
        "10.0.0.2:-1",
        "::1",
        "[::1",
        "[::1]5353",
        "[::1]:",
        "[10.0.0.2]",
        "[10.0.0.2]:53",
        "10.0.0.2:53:53",
    ],
)
def test_a_bad_nameserver_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match="dns_nameservers"):
        parse_nameservers("dns_nameservers", ["10.0.0.1", text])


def test_none_are_those_of_resolv_conf_and_no_empty_list_is_taken() -> None:
    assert parse_nameservers("nameservers", None) is None
    with pytest.raises(ConfigurationError, match="empty"):
        parse_nameservers("nameservers", [])


@pytest.mark.parametrize("wrong", ["10.0.0.2", 53, [53], [None]])
def test_nameservers_are_a_list_of_strings(wrong: Any) -> None:
    with pytest.raises(TypeError, match="nameservers"):
        parse_nameservers("nameservers", wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"grace_ttl": -0.1},
        {"max_retries": 0},
        {"max_retries": -1},
    ],
)
def test_an_impossible_setting_is_refused_by_its_name_there(wrong: dict[str, Any]) -> None:
    (named,) = wrong
    with pytest.raises(ConfigurationError, match=f"^dns_{named}"):
        ResolverSettings.checked(**{**GOOD, **wrong}, prefix="dns_")


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": "12"},
        {"timeout": None},
        {"grace_ttl": True},
        {"fallback": 1},
        {"max_retries": 3.0},
        {"max_retries": True},
        {"extend_grace": None},
    ],
)
def test_a_setting_of_another_type_is_refused(wrong: dict[str, Any]) -> None:
    (named,) = wrong
    with pytest.raises(TypeError, match=f"^{named}"):
        ResolverSettings.checked(**{**GOOD, **wrong})


def test_the_hosts_file_has_several_addresses_and_names() -> None:
    hosts = read_hosts(
        """
        ::1        db db.example.com  # a comment
        10.0.0.1   DB   other
        10.0.0.2\tdb
        # 10.0.0.3 db
        nonsense   db
        10.0.0.4
        """
    )
    assert hosts == {
        "db": ("10.0.0.1", "10.0.0.2", "::1"),
        "db.example.com": ("::1",),
        "other": ("10.0.0.1",),
    }


def test_a_file_is_read_when_it_has_changed_and_only_then(tmp_path: Path) -> None:
    read: list[str] = []

    def reading(text: str) -> str:
        read.append(text)
        return text

    path = tmp_path / "file"
    file = ChangingFile(path, reading)
    assert (file.contents(), file.contents()) == ("", "")
    path.write_text("one", encoding="utf-8")
    assert (file.contents(), file.contents()) == ("one", "one")
    other = tmp_path / "other"
    other.write_text("two", encoding="utf-8")
    os.utime(other, ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    assert (file.contents(), file.contents()) == ("two", "two")
    path.unlink()
    assert file.contents() == ""
    assert read == ["", "one", "two", ""]


def test_without_dnspython_it_can_be_imported_and_says_what_it_needs() -> None:
    program = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dns":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import hasql.dns
from hasql import MissingExtraError
for use in (hasql.dns.Resolver, lambda: hasql.dns.get_ip_with_ttl("db.test")):
    try:
        use()
    except MissingExtraError as error:
        print(error)
hasql.dns.clear_dns_cache()
"""
    result = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.stdout.count("pip install 'hasql[dns]'") == 2, result.stdout + result.stderr
