"""Which source of hosts a DSN asks for, and which DSNs are refused with which remedy."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from hasql.cluster.dsn import Dsn
from hasql.discovery import (
    Ask,
    Discovered,
    Discovery,
    DnsDiscovery,
    SrvDiscovery,
)
from hasql.discovery.choice import choose_source
from hasql.errors import ConfigurationError
from testbed.fake_driver import FakeManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Own(Discovery):
    async def watch(self) -> AsyncIterator[tuple[Discovered, ...]]:
        yield ()


class Asking(Discovery):
    async def watch(self, ask: Ask) -> AsyncIterator[tuple[Discovered, ...]]:
        await ask("SELECT 1")
        yield ()


def manager(dsn: str, **kwargs: Any) -> FakeManager:
    """Make a manager that the test never starts."""
    return FakeManager({}, dsn=dsn, **kwargs)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql+srv://u:p@db.example.com/app?sslmode=require",
        "postgresql://u:p@db.example.com:6432/app?discovery=dns",
        "postgresql://u:p@db1:6432,[fe80::1%25eth0]:5432/app?discovery=patroni&patroni_port=8009",
    ],
)
def test_what_a_dsn_asks_for_is_shown_and_reaches_no_driver(dsn: str) -> None:
    parsed = Dsn.parse(dsn)
    assert Dsn.parse(str(parsed)).source == parsed.source
    assert "discovery" in str(parsed)
    assert "p@" not in repr(parsed)
    assert parsed.source is not None
    url = parsed.for_host(parsed.source.names[0])
    assert "discovery" not in url
    assert "patroni" not in url
    assert "+srv" not in url


@pytest.mark.parametrize(
    ("dsn", "remedy"),
    [
        ("postgresql+srv://db.example.com:5432/app", "drop the one in the DSN"),
        ("postgresql+srv://db.example.com/app?port=5432", "drop the one in the DSN"),
        ("host=db.example.com port=5432 discovery=srv", "drop the one in the DSN"),
        ("postgresql+srv://db1.example.com,db2.example.com/app", "takes one name"),
        ("postgresql://db1,db2/app?discovery=dns", "to list the hosts, drop discovery=dns"),
        ("postgresql+srv://10.0.0.1/app", "has an address; drop discovery=srv"),
        ("postgresql://[::1]/app?discovery=dns", "has an address; drop discovery=dns"),
        ("hostaddr=10.0.0.1 discovery=dns", "has an address"),
        ("host=/run/postgresql discovery=dns", "has a Unix socket"),
        ("host=/run/postgresql discovery=patroni", "has a Unix socket"),
        ("postgresql://db1/app?discovery=consul", "must be one of dns, patroni, srv, static"),
        ("postgresql://db1/app?discovery=DNS", "must be one of dns, patroni, srv, static"),
        ("postgresql+srv://db1.example.com/app?discovery=dns", "keep one of the two"),
        ("postgresql+srv:///app", "names no host"),
        ("postgresql:///app?discovery=patroni", "names no host"),
        ("postgresql:///app", "names no host"),
        ("postgresql://db1/app?patroni_port=8008", "applies only to discovery=patroni; add that"),
        ("host=db1 discovery=dns patroni_ca=/x", "applies only to discovery=patroni; add that"),
        ("postgresql://db1/app?discovery=patroni&patroni_port=x", "a number from 1 to 65535"),
        ("postgresql://db1/app?discovery=patroni&patroni_scheme=ftp", "neither http nor https"),
        ("postgresql+srv+psycopg://db1/app", "postgresql://"),
    ],
)
def test_a_dsn_that_cannot_be_meant_names_the_remedy(dsn: str, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        Dsn.parse(dsn)


def test_no_error_quotes_what_may_be_a_piece_of_a_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Dsn.parse("postgresql://u@db1/app?password=x&discovery=geheim")
    assert "geheim" not in str(caught.value)


def test_a_source_that_is_given_needs_no_host_in_the_dsn() -> None:
    own = Own()
    assert manager("postgresql://u:p@/app", discovery=own).dsn.hosts == ()
    assert manager("user=u dbname=app", discovery=own).dsn.hosts == ()
    assert choose_source(Dsn.parse("host=db1"), own) is own


@pytest.mark.parametrize(
    ("dsn", "source", "remedy"),
    [
        ("postgresql+srv://db.example.com/app", Own(), "discovery=srv, and discovery=Own is given"),
        ("host=db1 discovery=patroni", Own(), "keep one of the two"),
        ("postgresql://u:p@/app", Asking(), "name a host in the DSN to begin with"),
        ("postgresql://u:p@:5433/app", Own(), "names no host"),
        ("postgresql://u:p@db1,/app", Own(), "host 2 of 2 in the DSN is empty"),
    ],
)
def test_a_source_that_is_given_beside_a_dsn_that_contradicts_it_is_refused(
    dsn: str, source: Discovery, remedy: str
) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        manager(dsn, discovery=source)


@pytest.mark.parametrize("given", [Own, "dns", object()])
def test_what_is_no_source_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match="a subclass of Discovery"):
        manager("host=db1", discovery=given)


@pytest.mark.parametrize(
    "name", ["", "10.0.0.1", "[::1]", "::1", "/run/pg", "db1:5432", "db1,db2", "a b"]
)
def test_only_a_name_can_be_looked_up(name: str) -> None:
    with pytest.raises(ConfigurationError):
        DnsDiscovery(name)
    with pytest.raises(ConfigurationError):
        SrvDiscovery(name)


def test_without_its_extra_a_source_says_what_to_install_and_others_need_none() -> None:
    code = """
import sys
sys.modules["dns"] = sys.modules["httpcore2"] = None
from hasql.errors import MissingExtraError
from testbed.fake_driver import FakeManager, fake_cluster
FakeManager({}, dsn="host=db1")
for dsn in ("postgresql+srv://a.org", "host=a.org discovery=dns", "host=a discovery=patroni"):
    try:
        FakeManager({}, dsn=dsn)
    except MissingExtraError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.partition("pip install ")[2] for line in lines] == [
        "'hasql[dns]'", "'hasql[dns]'", "'hasql[patroni]'"
    ]  # fmt: skip
