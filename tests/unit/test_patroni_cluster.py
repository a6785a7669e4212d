"""Patroni's answer to /cluster, and which of its members become hosts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hasql.cluster.host import HostSpec
from hasql.discovery.patroni_cluster import PatroniCluster

A = {"name": "a", "role": "leader", "state": "running", "host": "10.0.0.1", "port": 5432}
B = {"name": "b", "role": "replica", "state": "streaming", "host": "db2", "port": 6432}


def read(said: object, date: str | None = None) -> PatroniCluster:
    return PatroniCluster.read(json.dumps(said).encode(), date)


def member(**fields: Any) -> PatroniCluster:
    return read({"members": [A, {**B, **fields}]})


def test_members_are_hosts_in_patronis_order_and_bear_their_names() -> None:
    cluster = read({"members": [A, B], "scope": "hasql"})
    assert [(found.host, found.label) for found in cluster.hosts] == [
        (HostSpec("10.0.0.1", 5432), "a"),
        (HostSpec("db2", 6432), "b"),
    ]
    assert cluster.scope == "hasql"
    assert not any(found.never_master or found.never_replica for found in cluster.hosts)


@pytest.mark.parametrize(
    "state",
    ["running", "streaming", "in archive recovery", "starting", "start failed", "stopped", "new"],
)
@pytest.mark.parametrize("role", ["replica", "sync_standby", "quorum_standby", "standby_leader"])
def test_neither_state_nor_role_decides_who_is_a_host(state: str, role: str) -> None:
    assert len(member(state=state, role=role).hosts) == 2


@pytest.mark.parametrize("lag", [0, 123456, "unknown", None])
def test_whatever_the_lag_is_a_member_is_a_host(lag: object) -> None:
    fields = {"lag": lag, "receive_lag": lag, "replay_lag": lag, "lsn": "unknown"}
    assert len(member(**fields).hosts) == 2


@pytest.mark.parametrize(
    ("fields", "port"),
    [
        ({"host": None}, None),
        ({"host": ""}, None),
        ({"host": None, "port": None}, None),
        ({"port": None}, 5432),
        ({"port": 1}, 1),
    ],
)
def test_a_member_without_an_address_has_not_started_and_one_without_a_port_has_postgresqls(
    fields: dict[str, Any], port: int | None
) -> None:
    for given in (fields, {k: v for k, v in fields.items() if v is not None}):
        absent = {k: v for k, v in B.items() if k not in fields}
        hosts = read({"members": [A, {**absent, **given}]}).hosts
        assert [found.host.port for found in hosts[1:]] == ([] if port is None else [port])


@pytest.mark.parametrize(
    ("tags", "never_master", "never_replica"),
    [
        ({}, False, False),
        (None, False, False),
        ([], False, False),
        ({"nofailover": True}, True, False),
        ({"failover_priority": 0}, True, False),
        ({"failover_priority": "0"}, True, False),
        ({"failover_priority": -1}, True, False),
        ({"failover_priority": 2}, False, False),
        ({"failover_priority": "high"}, False, False),
        ({"nofailover": False, "failover_priority": 0}, False, False),
        ({"nofailover": True, "failover_priority": 2}, True, False),
        ({"noloadbalance": True}, False, True),
        ({"noloadbalance": False}, False, False),
        ({"nosync": True, "clonefrom": True, "nostream": True, "of_ours": 1}, False, False),
        ({"nofailover": True, "noloadbalance": True, "nosync": True}, True, True),
    ],
)
def test_tags_say_who_never_leads_and_who_never_is_read_from(
    tags: object,
    never_master: bool,
    never_replica: bool,
) -> None:
    (_, found) = member(tags=tags).hosts
    assert (found.never_master, found.never_replica) == (never_master, never_replica)


def test_a_leader_leads_whatever_its_tags_say_of_the_next_time() -> None:
    (leader, _) = read({"members": [{**A, "tags": {"nofailover": True}}, B]}).hosts
    assert not leader.never_master
    (standby_leader,) = read(
        {"members": [{**A, "role": "standby_leader", "tags": {"nofailover": True}}]}
    ).hosts
    assert standby_leader.never_master


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "not JSON"),
        (b"<html><body>It works!</body></html>", "not JSON"),
        (json.dumps({"members": [A, B]}).encode()[:40], "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not that of Patroni"),
        (b"null", "not that of Patroni"),
        (b'{"members": {}}', "not that of Patroni"),
        (b'{"state": "running", "role": "primary"}', "not that of Patroni"),
        (b'{"members": []}', "names no member with an address"),
        (b'{"members": [{"name": "a"}]}', "names no member with an address"),
        (b'{"members": [7]}', "has no name"),
        (b'{"members": [{"host": "a"}]}', "has no name"),
        (b'{"members": [{"name": "a", "host": 7}]}', "'a' has no usable address"),
        (b'{"members": [{"name": "a", "host": "b c"}]}', "'a' has no usable address"),
        (b'{"members": [{"name": "a", "host": "b,c"}]}', "'a' has no usable address"),
        (b'{"members": [{"name": "a", "host": "/tmp"}]}', "'a' has no usable address"),
        (b'{"members": [{"name": "a", "host": "b[::1]"}]}', "'a' has no usable address"),
        (b'{"members": [{"name": "a", "host": "b", "port": "x"}]}', "'a' has no usable address"),
        (b'{"members": [{"name": "a", "host": "b", "port": 0}]}', "'a' has no usable address"),
        (b'{"members": [{"name": "a", "host": "b", "port": 99999}]}', "'a' has no usable address"),
        (json.dumps({"members": [A] * 257}).encode(), "names 257 members"),
    ],
)
def test_what_is_no_answer_says_why(said: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        PatroniCluster.read(said, None)


NOON = "Wed, 25 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("at", "date", "seconds"),
    [
        ("2026-11-25T12:05:00+00:00", NOON, 300.0),
        ("2026-11-25T14:00:30.5+02:00", NOON, 30.5),
        ("2026-11-25T11:59:00+00:00", NOON, -60.0),
        ("2026-11-25T12:05:00", NOON, None),  # the time zone is missing
        ("2026-11-25T12:05:00+00:00", None, None),
        ("2026-11-25T12:05:00+00:00", "noon", None),
        ("tomorrow", NOON, None),
        (7, NOON, None),
    ],
)
def test_a_switchover_is_as_far_off_as_the_clock_of_the_server_says(
    at: object, date: str | None, seconds: float | None
) -> None:
    scheduled = {"at": at, "from": "a", "to": "b"}
    assert read({"members": [A, B], "scheduled_switchover": scheduled}, date).switchover_in == (
        seconds
    )


@pytest.mark.parametrize("scheduled", [None, {}, [], "soon"])
def test_none_may_be_scheduled(scheduled: object) -> None:
    said = {"members": [A, B], "scheduled_switchover": scheduled}
    assert read(said, NOON).switchover_in is None
