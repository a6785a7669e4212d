"""What a source may say about a host, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from hasql import ConfigurationError, HostSpec
from hasql.discovery import Discovered

HOST = HostSpec("db1", 5432)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (HostSpec("DB1", 5432), HOST),
        (HostSpec("db1", "5432"), HOST),  # type: ignore[arg-type]
        (HostSpec("0:0::1", 5432), HostSpec("::1", 5432)),
        (HostSpec("/run/pg", 5433), HostSpec("/run/pg", 5433)),
        (HostSpec("db1", 5432, "10.0.0.1"), HostSpec("db1", 5432, "10.0.0.1")),
    ],
)
def test_hosts_are_taken_as_a_dsn_has_them(given: HostSpec, taken: HostSpec) -> None:
    assert Discovered(given).host == taken


@pytest.mark.parametrize(
    "host",
    [
        HostSpec("", 5432),
        HostSpec("db1,db2", 5432),  # a driver reads it as two hosts
        HostSpec("db1 host=evil", 5432),
        HostSpec("u:p@db1", 5432),
        HostSpec("db1/x?sslmode=disable", 5432),
        HostSpec("db1\0", 5432),
        HostSpec("::x", 5432),
        HostSpec("db1", 0),
        HostSpec("db1", 65536),
        HostSpec("db1", True),
        HostSpec("db1", None),  # type: ignore[arg-type]
        HostSpec(None, 5432),  # type: ignore[arg-type]
        HostSpec("db1", 5432, "no-address"),
    ],
    ids=repr,
)
def test_17_what_cannot_be_a_host_is_refused(host: HostSpec) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a host"):
        Discovered(host)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"never_master": 1}, TypeError),
        ({"never_replica": None}, TypeError),
        ({"priority": 1.0}, TypeError),
        ({"priority": True}, TypeError),
        ({"weight": "1"}, TypeError),
        ({"weight": -1}, ConfigurationError),
        ({"label": b"x"}, TypeError),
    ],
)
def test_what_is_said_of_a_host_is_checked(said: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=next(iter(said))):
        Discovered(HOST, **said)
    with pytest.raises(TypeError, match="HostSpec"):
        Discovered("db1:5432")  # type: ignore[arg-type]
    assert Discovered(HOST, priority=-1, weight=0).weight == 0
