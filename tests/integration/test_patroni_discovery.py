"""Patroni's REST API is asked over real sockets: its answers, and what else may happen."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import subprocess
import sys
from contextlib import aclosing, suppress
from math import nan
from typing import TYPE_CHECKING, Any, cast

import pytest

from hasql import ConfigurationError, HostSpec
from hasql.discovery import Discovered, PatroniDiscovery
from testbed.certificates import Authority
from testbed.http_server import (
    Behaviour,
    HttpServer,
    answers,
    breaks_off,
    drips,
    floods,
    hangs,
    says,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("nothing_unheard")

CLUSTER: dict[str, Any] = {
    "members": [
        {"name": "p1", "role": "leader", "state": "running", "host": "10.0.0.1", "port": 5432},
        {"name": "p2", "role": "replica", "state": "streaming", "host": "10.0.0.2", "port": 5433},
        {"name": "p3", "role": "replica", "state": "creating replica"},
    ],
    "scope": "ours",
}
HOSTS = [HostSpec("10.0.0.1", 5432), HostSpec("10.0.0.2", 5433)]


def watching(source: PatroniDiscovery) -> aclosing[AsyncGenerator[tuple[Discovered, ...], None]]:
    return aclosing(cast("AsyncGenerator[tuple[Discovered, ...], None]", source.watch()))


async def hosts_of(source: PatroniDiscovery) -> list[HostSpec]:
    async with watching(source) as watched:
        return [found.host for found in await anext(watched)]


async def failure_of(source: PatroniDiscovery) -> str:
    with pytest.raises(ConnectionError) as caught:
        await hosts_of(source)
    return str(caught.value)


async def test_the_members_are_the_hosts() -> None:
    async with HttpServer(answers(CLUSTER)) as server:
        assert await hosts_of(PatroniDiscovery([server.url])) == HOSTS
        (request,) = server.requests
        assert request.target == "/cluster"
        assert request.headers["host"] == f"127.0.0.1:{server.port}"
        assert "authorization" not in request.headers


async def test_ipv6() -> None:
    try:
        server = await HttpServer(answers(CLUSTER), host="::1").__aenter__()
    except OSError:
        pytest.skip("there is no IPv6 here")
    try:
        assert await hosts_of(PatroniDiscovery([f"http://[::1]:{server.port}"])) == HOSTS
    finally:
        await server.__aexit__(None, None, None)


BAD: list[Any] = [
    pytest.param(hangs, "no answer within 0.3 s", id="hangs"),
    pytest.param(drips, "no answer within 0.3 s", id="drips"),
    pytest.param(floods, "longer than 1048576 bytes", id="floods"),
    pytest.param(breaks_off(CLUSTER), "does not speak HTTP as it should", id="half"),
    pytest.param(says(b""), "does not speak HTTP as it should", id="closes"),
    pytest.param(says(b"220 smtp ready\r\n"), "does not speak HTTP as it should", id="smtp"),
    pytest.param(says(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000), "does not speak", id="heads"),
    pytest.param(answers(b"<html>hello</html>"), "not JSON", id="html"),
    pytest.param(answers(b'{"members": [{"na'), "not JSON", id="half JSON"),
    pytest.param(answers({"members": []}), "names no member", id="empty"),
    pytest.param(answers({"state": "running"}), "not that of Patroni's /cluster", id="other"),
    pytest.param(answers(CLUSTER, 401), "refused the request \\(401\\): check auth", id="401"),
    pytest.param(answers(CLUSTER, 403), "refused the request \\(403\\)", id="403"),
    pytest.param(answers(CLUSTER, 404), "status 404", id="404"),
    pytest.param(answers(CLUSTER, 503), "status 503", id="503"),
]


@pytest.mark.parametrize(("behaviour", "why"), BAD)
async def test_who_gives_no_answer_is_passed_over_and_named_if_nobody_does(
    behaviour: Behaviour, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with HttpServer(behaviour) as bad, HttpServer(answers(CLUSTER)) as good:
        with pytest.raises(ConnectionError, match=f"{bad.url}: .*{why}"):
            await hosts_of(PatroniDiscovery([bad.url], timeout=0.3))
        source = PatroniDiscovery([bad.url, good.url], timeout=0.3, interval=0.01)
        with caplog.at_level(logging.INFO, "hasql"):
            async with watching(source) as watched:
                for _ in range(3):
                    assert [found.host for found in await anext(watched)] == HOSTS
        # This source asks `bad` once: from then on it asks `good`, which answered, first.
        assert bad.connections == 2
        assert len(good.requests) == 3
        assert [record.getMessage().startswith(bad.url) for record in caplog.records] == [True]
        await nobody_is_connected(bad, good)


async def nobody_is_connected(*servers: HttpServer) -> None:
    async with asyncio.timeout(5):
        while any(server.open for server in servers):
            await asyncio.sleep(0.005)


async def test_a_redirect_is_refused_and_not_followed() -> None:
    async with HttpServer(answers(CLUSTER)) as elsewhere:
        to = {"Location": f"{elsewhere.url}/cluster"}
        for status in (301, 302, 303, 307, 308):
            async with HttpServer(answers(CLUSTER, status, to)) as server:
                why = await failure_of(PatroniDiscovery([server.url]))
                assert f"redirects ({status}), which hasql does not follow" in why
        assert not elsewhere.connections


async def test_one_that_is_not_there_is_passed_over(unused_ports: tuple[int, int]) -> None:
    gone = f"http://127.0.0.1:{unused_ports[0]}"
    assert f"[Errno {errno.ECONNREFUSED}]" in await failure_of(PatroniDiscovery([gone]))
    assert "http://no.such.host.invalid:8008: " in await failure_of(
        PatroniDiscovery(["http://no.such.host.invalid:8008"], timeout=10)
    )
    async with HttpServer(answers(CLUSTER)) as server:
        assert await hosts_of(PatroniDiscovery([gone, server.url])) == HOSTS


async def test_what_another_cluster_says_is_not_taken() -> None:
    other = {"members": [{"name": "x", "host": "10.9.9.9", "port": 5432}], "scope": "theirs"}
    async with HttpServer(answers(CLUSTER)) as one, HttpServer(answers(CLUSTER)) as two:
        source = PatroniDiscovery([one.url, two.url], interval=0.01)
        async with watching(source) as watched:
            await anext(watched)
            one.behaviour = answers(other)
            assert [found.host for found in await anext(watched)] == HOSTS
            two.behaviour = answers(other)
            with pytest.raises(ConnectionError, match="to cluster 'theirs', not to 'ours'"):
                await anext(watched)
        # Nor later: a new watch still knows to which cluster the members belonged.
        assert "not to 'ours'" in await failure_of(source)


async def test_it_is_asked_again_each_interval_and_members_come_and_go() -> None:
    async with (
        HttpServer(answers(CLUSTER)) as server,
        watching(PatroniDiscovery([server.url], interval=0.05)) as watched,
    ):
        assert len(await anext(watched)) == 2
        grown = [*CLUSTER["members"], {"name": "p4", "host": "p4", "port": 5432}]
        server.behaviour = answers({**CLUSTER, "members": grown})
        assert len(await anext(watched)) == 3
        server.behaviour = answers({**CLUSTER, "members": CLUSTER["members"][:1]})
        assert len(await anext(watched)) == 1


async def test_refreshing_asks_now_but_at_most_once_a_second() -> None:
    loop = asyncio.get_running_loop()
    async with HttpServer(answers(CLUSTER)) as server:
        source = PatroniDiscovery([server.url], interval=60)
        source.refresh()  # nobody watches yet, so there is nothing to hurry
        async with watching(source) as watched:
            await anext(watched)
            began = loop.time()
            again = asyncio.ensure_future(anext(watched))
            for _ in range(50):
                source.refresh()
                await asyncio.sleep(0.01)
            await again
            assert 0.9 < loop.time() - began < 5
            assert len(server.requests) == 2
            # A refresh before the answer does not lead to another request after it.
            again = asyncio.ensure_future(anext(watched))
            await asyncio.sleep(1.5)
            assert len(server.requests) == 2
            source.refresh()
            async with asyncio.timeout(1):
                await again
            assert len(server.requests) == 3


async def test_before_a_scheduled_switchover_it_is_asked_once_more() -> None:
    soon = {
        **CLUSTER,
        "scheduled_switchover": {"at": "2026-11-25T12:00:06.5+00:00", "from": "p1", "to": "p2"},
    }
    noon = "Wed, 25 Nov 2026 12:00:00 GMT"
    loop = asyncio.get_running_loop()
    async with (
        HttpServer(answers(soon, date=noon)) as server,
        watching(PatroniDiscovery([server.url], interval=60)) as watched,
    ):
        await anext(watched)
        began = loop.time()
        async with asyncio.timeout(10):
            await anext(watched)  # five seconds before the switchover: in 1.5 s
        assert loop.time() - began > 1.4


async def test_a_watch_that_is_cancelled_leaves_nothing_open() -> None:
    async def stalls(server: socket.socket) -> None:
        """Let a source wait for a TLS handshake, and then cancel it."""
        port = server.getsockname()[1]
        source = PatroniDiscovery([f"https://127.0.0.1:{port}"], timeout=20)
        asking = asyncio.ensure_future(hosts_of(source))
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(server)
        with connection:
            connection.setblocking(False)
            assert await loop.sock_recv(connection, 100)  # ClientHello
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            async with asyncio.timeout(5):
                while await loop.sock_recv(connection, 10_000):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        await stalls(server)
    async with HttpServer(hangs) as slow:
        asking = asyncio.ensure_future(hosts_of(PatroniDiscovery([slow.url], timeout=20)))
        await slow.asked(1)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        await nobody_is_connected(slow)


# The members that it finds are further seeds


def found(*api_urls: str) -> dict[str, Any]:
    members = [
        {"name": f"m{i}", "host": f"m{i}", "port": 5432, "api_url": url}
        for i, url in enumerate(api_urls)
    ]
    return {"members": members, "scope": "ours"}


async def test_when_all_seeds_have_gone_the_members_found_are_asked() -> None:
    async with HttpServer(answers({})) as new, HttpServer(answers({})) as seed:
        seed.behaviour = new.behaviour = answers(found(f"{new.url}/patroni", "nonsense://"))
        source = PatroniDiscovery([seed.url], interval=0.01)
        async with watching(source) as watched:
            await anext(watched)
            seed.behaviour = answers(b"", 503)
            await anext(watched)
            assert [request.target for request in new.requests] == ["/cluster"]
            new.behaviour = answers(b"", 503)
            with pytest.raises(ConnectionError, match=f"{new.url}: .*{seed.url}: "):
                await anext(watched)


async def test_what_is_found_is_shown_no_password_and_asked_by_tls_where_all_seeds_are(
    tmp_path: Path,
) -> None:
    ours = Authority(tmp_path / "ours")
    tls = ours.server("IP:127.0.0.1")
    async with (
        HttpServer(answers({})) as plain,
        HttpServer(answers({}), tls=tls) as safe,
        HttpServer(answers({}), tls=tls) as seed,
    ):
        said = answers(found(plain.url, seed.url, f"https://root:hunter2@127.0.0.1:{safe.port}"))
        plain.behaviour = safe.behaviour = seed.behaviour = said
        source = PatroniDiscovery(
            [seed.url], interval=0.01, ca=str(ours.certificate), auth=("app", "s3cret")
        )
        async with watching(source) as watched:
            await anext(watched)
            seed.behaviour = answers(b"", 503)
            await anext(watched)
        assert not plain.connections
        assert [request.headers.get("authorization") for request in safe.requests] == [None]
        assert {request.headers["authorization"] for request in seed.requests} == {
            "Basic YXBwOnMzY3JldA=="
        }


# TLS


async def test_a_certificate_is_verified_always(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    ca = str(ours.certificate)
    async with (
        HttpServer(answers(CLUSTER), tls=ours.server("IP:127.0.0.1", "DNS:localhost")) as good,
        HttpServer(answers(CLUSTER), tls=ours.server("IP:127.0.0.9")) as other_name,
        HttpServer(answers(CLUSTER), tls=theirs.server("IP:127.0.0.1")) as other_authority,
        HttpServer(answers(CLUSTER)) as plain,
    ):
        assert await hosts_of(PatroniDiscovery([good.url], ca=ca)) == HOSTS
        by_name = f"https://localhost:{good.port}"
        assert await hosts_of(PatroniDiscovery([by_name], ca=ca)) == HOSTS
        for url, authority, why in (
            (good.url, None, "certificate verify failed"),
            (other_name.url, ca, "IP address mismatch"),
            (other_authority.url, ca, "certificate verify failed"),
            (plain.url.replace("http:", "https:"), ca, "wrong version number|record layer"),
        ):
            with pytest.raises(ConnectionError, match=why):
                await hosts_of(PatroniDiscovery([url], ca=authority))
        # None of them has seen a request, with or without a password.
        assert len(good.requests) == 2
        assert not any(bad.requests for bad in (other_name, other_authority, plain))


async def test_our_own_certificate_is_shown(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours")
    ca, mine = str(ours.certificate), str(ours.issue("DNS:application"))
    tls = ours.server("IP:127.0.0.1", asks_for_a_certificate=True)
    async with HttpServer(answers(CLUSTER), tls=tls) as server:
        for certificate in (mine, (mine, mine)):
            source = PatroniDiscovery([server.url], ca=ca, certificate=certificate)
            assert await hosts_of(source) == HOSTS
        await failure_of(PatroniDiscovery([server.url], ca=ca))
        assert len(server.requests) == 2


async def test_a_certificate_that_was_renewed_is_read_when_the_old_one_has_failed(
    tmp_path: Path,
) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    ca = tmp_path / "ca.crt"
    ca.write_bytes(old.certificate.read_bytes())
    async with HttpServer(answers(CLUSTER), tls=new.server("IP:127.0.0.1")) as server:
        source = PatroniDiscovery([server.url], ca=str(ca))
        assert "certificate verify failed" in await failure_of(source)
        ca.write_bytes(new.certificate.read_bytes())
        assert await hosts_of(source) == HOSTS


# Passwords


async def test_user_and_password_are_sent_and_shown_nowhere(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours")
    ca, tls = str(ours.certificate), ours.server("IP:127.0.0.1")
    async with HttpServer(answers(CLUSTER), tls=tls) as one:
        in_url = one.url.replace("//", "//app:s3cr%40t@")
        for source in (
            PatroniDiscovery([one.url], ca=ca, auth=("app", "s3cr@t")),
            PatroniDiscovery([in_url], ca=ca),
            PatroniDiscovery([in_url], ca=ca, auth=("app", "another")),
        ):
            assert await hosts_of(source) == HOSTS
            assert one.requests[-1].headers["authorization"] == "Basic YXBwOnMzY3JAdA=="
            one.behaviour = answers({}, 401)
            why = await failure_of(source)
            one.behaviour = answers(CLUSTER)
            for text in (why, str(source), repr(source)):
                assert one.url in text
                assert not any(each in text for each in ("s3cr", "YXBw", "another"))


@pytest.mark.parametrize(
    "options",
    [
        {"urls": ["http://db1:8008"], "auth": ("app", "s3cret")},
        {"urls": ["https://db1:8008", "http://db2:8008"], "auth": ("app", "s3cret")},
        {"urls": ["http://app:s3cret@db1:8008"]},
    ],
)
def test_a_password_is_not_sent_in_plain_text(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="password in plain text; use https") as caught:
        PatroniDiscovery(**options)
    assert "s3cret" not in str(caught.value)


# What can never work


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"urls": []}, "urls must be a sequence"),
        ({"urls": "http://db1:8008"}, "urls must be a sequence"),
        ({"urls": ["db1:8008"]}, "URL 1 of Patroni is not a URL such as http://db1:8008"),
        ({"urls": ["http://db1:8008", "ftp://s3cret"]}, "URL 2 of Patroni is not a URL"),
        ({"urls": ["http://s3cret:port"]}, "not a URL"),
        ({"urls": ["http://[s3cret"]}, "not a URL"),
        ({"urls": ["http://s3cret[::1]"]}, "not a URL"),
        ({"urls": ["http://"]}, "not a URL"),
        ({"urls": ["http:///s3cret"]}, "not a URL"),
        ({"urls": ["http://db1:8008/s3cret"]}, "must end after the port"),
        ({"urls": ["http://db1:8008?token=s3cret"]}, "must end after the port"),
        ({"urls": ["http://db1"], "interval": 0}, "interval must be more than 0 seconds"),
        ({"urls": ["http://db1"], "timeout": 0}, "timeout must be more than 0 seconds"),
        ({"urls": ["http://db1"], "timeout": nan}, "timeout must be more than 0 seconds"),
        ({"urls": ["http://db1"], "ca": "ca.crt"}, "apply only to https"),
        ({"urls": ["http://db1"], "certificate": "c"}, "apply only to https"),
        ({"urls": ["https://db1"], "ca": "no/such"}, "ca='no/such' cannot be used: .*No such"),
        ({"urls": ["https://db1"], "ca": __file__}, "ca='.*' cannot be used"),
        ({"urls": ["https://db1"], "certificate": __file__}, "certificate='.*' cannot be used"),
        ({"urls": ["https://db1"], "auth": "app:s3cret"}, "auth must be \\(user, password\\)"),
        ({"urls": ["https://db1"], "auth": ("app:s3cret", "x")}, "auth must be"),
        ({"urls": ["https://db1"], "auth": ("app", None)}, "auth must be"),
    ],
)
def test_what_can_never_work_is_refused_with_its_remedy(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        PatroniDiscovery(**options)
    assert "s3cret" not in f"{caught.value}{caught.value.__context__}"


@pytest.mark.parametrize("options", [{"interval": "1"}, {"timeout": None}], ids=str)
def test_a_time_is_a_number_of_seconds(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(TypeError, match=f"{name} must be a number of seconds"):
        PatroniDiscovery(["http://db1"], **options)


def test_a_missing_library_is_explained_by_its_extra() -> None:
    program = """
import sys
sys.modules["httpcore2"] = None  # as if it were not installed
from hasql.discovery import PatroniDiscovery
from hasql import MissingExtraError
try:
    PatroniDiscovery(["http://db1:8008"])
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "pip install 'hasql[patroni]'" in done.stdout


def test_a_key_with_a_password_is_refused_and_not_asked_for(tmp_path: Path) -> None:
    key = Authority(tmp_path / "ours").issue("DNS:application")
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "ec", "-in", key, "-aes256", "-passout", "pass:x", "-out", locked],  # noqa: S607
        check=True,
        capture_output=True,
    )
    with pytest.raises(ConfigurationError, match="its key has a password"):
        PatroniDiscovery(["https://db1"], certificate=(str(key), str(locked)))


def test_a_url_without_a_port_has_that_of_its_scheme() -> None:
    assert str(PatroniDiscovery(["http://db1", "HTTPS://DB2/"])) == (
        "PatroniDiscovery(http://db1:80, https://db2:443)"
    )


# Sources that a DSN asks for


def test_of_hosts_is_what_a_dsn_asks_for(tmp_path: Path) -> None:
    hosts = [HostSpec("db1", 5432), HostSpec("db1", 5433), HostSpec("::1", 5432)]
    assert str(PatroniDiscovery.of_hosts(hosts)) == (
        "PatroniDiscovery(http://db1:8008, http://[::1]:8008)"
    )
    file = tmp_path / "auth"
    file.write_text("app:s3:cret\n")
    source = PatroniDiscovery.of_hosts(hosts, port=1, scheme="https", auth_file=str(file))
    assert str(source) == "PatroniDiscovery(https://db1:1, https://[::1]:1)"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"scheme": "ftp"}, "must be http or https"),
        ({"port": 0}, "not a URL"),
        ({"ca": "ca.crt"}, "apply only to https"),
        ({"scheme": "https", "auth_file": "/no/such"}, "cannot be read: No such file"),
        ({"scheme": "https", "auth_file": __file__}, "must hold one line: user:password"),
    ],
)
def test_what_a_dsn_may_ask_for_is_checked(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        PatroniDiscovery.of_hosts([HostSpec("db1", 5432)], **options)


def test_patroni_is_not_asked_at_a_unix_socket() -> None:
    with pytest.raises(ConfigurationError, match="Unix"):
        PatroniDiscovery.of_hosts([HostSpec("/run/postgresql", 5432)])
