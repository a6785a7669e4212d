"""The source of hosts that a DSN asks for; its libraries have to be installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hasql.cluster.dsn import Dsn
from hasql.cluster.host import HostSpec
from hasql.discovery import (
    Discovery,
    DnsDiscovery,
    PatroniDiscovery,
    SrvDiscovery,
    StaticDiscovery,
)
from hasql.discovery.choice import choose_source
from hasql.errors import ConfigurationError
from testbed.fake_driver import FakeManager

if TYPE_CHECKING:
    from pathlib import Path


_NAME = "postgresql._tcp.db.example.com"


def manager(dsn: str, **kwargs: Any) -> FakeManager:
    """Make a manager that the test never starts."""
    return FakeManager({}, dsn=dsn, **kwargs)


@pytest.mark.parametrize(
    ("dsn", "kind", "name", "hosts"),
    [
        ("postgresql+srv://u:p@db.example.com/app", SrvDiscovery, f"_{_NAME}", []),
        ("postgresql://u@_pg._tcp.a.org?discovery=srv", SrvDiscovery, "_pg._tcp.a.org", []),
        ("postgresql+psycopg://DB.example.com./?discovery=srv", SrvDiscovery, f"_{_NAME}", []),
        ("host=db.example.com port=6432 discovery=dns", DnsDiscovery, "db.example.com", []),
        ("host=db1 discovery=static", StaticDiscovery, None, ["db1:5432"]),
        ("postgresql://db1,db2:6432/app", StaticDiscovery, None, ["db1:6432", "db2:6432"]),
    ],
)  # fmt: skip
def test_a_dsn_says_where_its_hosts_come_from(
    dsn: str, kind: type[Discovery], name: str | None, hosts: list[str]
) -> None:
    shown = kind.__name__ if name is None else f"{kind.__name__}({name!r})"
    parsed = Dsn.parse(dsn)
    source = choose_source(parsed, None)
    assert type(source) is kind
    assert str(source) == shown
    assert [str(host) for host in parsed.hosts] == hosts
    assert manager(dsn).metrics().discovery.source == shown


def test_patroni_is_asked_beside_the_hosts_that_a_manager_begins_with(tmp_path: Path) -> None:
    auth, ca = tmp_path / "auth", tmp_path / "ca.pem"
    auth.write_text("patroni:secret-1\n")
    parsed = Dsn.parse("postgresql://u:p@db1,db2:6432/app?discovery=patroni&patroni_port=8009")
    assert [str(host) for host in parsed.hosts] == ["db1:6432", "db2:6432"]
    source = choose_source(parsed, None)
    assert isinstance(source, PatroniDiscovery)
    assert "http://db1:8009" in str(source)
    tls = f"host=db1 discovery=patroni patroni_scheme=https patroni_auth_file={auth}"
    assert "secret-1" not in f"{choose_source(Dsn.parse(tls), None)}{Dsn.parse(tls)!r}"
    with pytest.raises(ConfigurationError, match=r"ca\.pem"):
        choose_source(Dsn.parse(f"{tls} patroni_ca={ca}"), None)


def test_with_a_source_never_master_may_name_hosts_that_are_not_known_yet() -> None:
    manager(
        "postgresql://u:p@/app",
        discovery=StaticDiscovery([HostSpec("db1", 5432)]),
        never_master=["db9"],
    )
    manager("postgresql+srv://db.example.com/app", never_master=["db9:5433"])
    with pytest.raises(ConfigurationError, match="not a host of the DSN"):
        manager("host=db1", never_master=["db9"])


def test_other_arguments_of_sources_are_checked() -> None:
    for port in (0, 65536, -1):
        with pytest.raises(ConfigurationError):
            DnsDiscovery("db1", port)
    with pytest.raises(TypeError, match=r"hasql\.dns\.Resolver"):
        DnsDiscovery("db1", resolver="10.0.0.2")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="allowed_domains"):
        SrvDiscovery("db1", allowed_domains="example.com")
    with pytest.raises(ConfigurationError, match="no host"):
        StaticDiscovery([])
