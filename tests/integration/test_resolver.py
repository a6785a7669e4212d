"""A resolver asks a real nameserver as seldom as it may, and as often as it must."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from hasql import ConfigurationError, HasqlError, NameResolutionError
from hasql.dns import (
    Answer,
    Resolver,
    SrvTarget,
    clear_dns_cache,
    get_ip_with_ttl,
)
from testbed.nameserver import Fault, NameServer
from testbed.resolvers import ManualClock, resolver_on, until_no_lookups

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: How a nameserver may fail for a name that it answered before.
FAILURES = (
    Fault.SERVFAIL,
    Fault.REFUSED,
    Fault.SILENT,
    Fault.GARBAGE,
    Fault.MISTAKEN,
    Fault.STRANGE,
    Fault.EMPTY,
    Fault.NXDOMAIN,
)
#: Seconds for an attempt: enough for a nameserver on a busy machine. A silent one takes all of it.
ATTEMPT = 1.0
#: A host name that leaves room for a short domain only.
LONG = ".".join(["a" * 57] * 4)


@pytest.fixture
def nameserver() -> Iterator[NameServer]:
    with NameServer() as server:
        server.set("db.test", "127.0.0.2", "127.0.0.3", "::1", ttl=60)
        yield server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


# What a name means.


@pytest.mark.parametrize("address", ["127.0.0.9", "::1", "fe80::1"])
async def test_an_address_stands_for_itself(
    nameserver: NameServer, tmp_path: Path, address: str
) -> None:
    resolver = resolver_on(tmp_path, nameserver)
    assert resolver.lookup(address).addresses == (address,)
    assert (await resolver.lookup_async(address)).addresses == (address,)
    assert nameserver.count() == 0


def test_the_hosts_file_goes_first_and_is_read_again(
    nameserver: NameServer, tmp_path: Path
) -> None:
    resolver = resolver_on(tmp_path, nameserver)
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.7 db.test\n::7 DB.test", encoding="utf-8")
    assert resolver.lookup("Db.Test").addresses == ("127.0.0.7", "::7")
    hosts.write_text("127.0.0.17 db.test", encoding="utf-8")
    assert resolver.lookup("db.test").addresses == ("127.0.0.17",)
    assert nameserver.count() == 0
    hosts.unlink()
    assert resolver.lookup("db.test").addresses == ("127.0.0.2", "127.0.0.3", "::1")


async def test_all_addresses_of_both_kinds_are_found(
    nameserver: NameServer, tmp_path: Path
) -> None:
    resolver = resolver_on(tmp_path, nameserver)
    answer = await resolver.lookup_async("db.test")
    assert answer.addresses == ("127.0.0.2", "127.0.0.3", "::1")
    assert 59 < answer.ttl <= 60
    assert resolver.lookup("DB.TEST").addresses == answer.addresses
    assert nameserver.count() == 2, "A and AAAA, once for both"


def test_a_hundred_records_come_over_tcp(nameserver: NameServer, tmp_path: Path) -> None:
    addresses = [f"127.0.1.{number}" for number in range(100)]
    nameserver.set("many.test", *addresses)
    answer = resolver_on(tmp_path, nameserver).lookup("many.test")
    assert sorted(answer.addresses) == sorted(addresses)


def test_a_truncated_answer_is_asked_for_over_tcp(nameserver: NameServer, tmp_path: Path) -> None:
    nameserver.fail(Fault.TRUNCATED)
    answer = resolver_on(tmp_path, nameserver).lookup("db.test")
    assert answer.addresses == ("127.0.0.2", "127.0.0.3", "::1")
    assert sorted(question.tcp for question in nameserver.questions) == [False, False, True, True]


def test_who_guesses_an_answer_before_it_comes_is_not_believed(
    nameserver: NameServer, tmp_path: Path
) -> None:
    nameserver.fail(Fault.FORGED)
    answer = resolver_on(tmp_path, nameserver, max_retries=1).lookup("db.test")
    assert answer.addresses == ("127.0.0.2", "127.0.0.3", "::1")


@pytest.mark.parametrize(
    ("conf", "host", "asked"),
    [
        ("search a.test b.test", "db", ["db.a.test", "db.b.test", "db"]),
        ("search a.test b.test", "db.x", ["db.x", "db.x.a.test", "db.x.b.test"]),
        ("search a.test\noptions ndots:2", "db.x", ["db.x.a.test", "db.x"]),
        ("search a.test\noptions ndots:2", "db.x.y", ["db.x.y", "db.x.y.a.test"]),
        ("search a.test", "db.", ["db"]),
        ("domain a.test", "db", ["db.a.test", "db"]),
        ("search a.test\nsearch b.test", "db", ["db.b.test", "db"]),
        # A line that systemd-resolved writes, and lines for which dnspython would refuse the file.
        ("search .", "db", ["db"]),
        ("search .x a.test b..test\nnameserver nonsense", "db", ["db.a.test", "db"]),
        ("domain ..", "db", ["db"]),
        (f"search {'x' * 63}.test a.test", LONG, [LONG, f"{LONG}.a.test"]),
    ],
)
def test_a_short_name_is_completed_as_resolv_conf_says(
    nameserver: NameServer, tmp_path: Path, conf: str, host: str, asked: list[str]
) -> None:
    (tmp_path / "resolv.conf").write_text(conf, encoding="utf-8")
    # One attempt is enough: the length of the list costs no attempts.
    resolver = resolver_on(tmp_path, nameserver, max_retries=1)
    with pytest.raises(NameResolutionError):
        resolver.lookup(host)
    assert [question.name for question in nameserver.questions if question.kind == "A"] == asked


def test_the_first_of_a_search_list_that_is_there_is_it(
    nameserver: NameServer, tmp_path: Path
) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("search a.test b.test c.test", encoding="utf-8")
    nameserver.set("db.b.test", "127.0.0.5")
    nameserver.set("db.c.test", "127.0.0.6")
    resolver = resolver_on(tmp_path, nameserver)
    assert resolver.lookup("db").addresses == ("127.0.0.5",)
    conf.write_text("search c.test", encoding="utf-8")
    clear_dns_cache()
    assert resolver.lookup("db").addresses == ("127.0.0.6",), "it is read again, too"


def test_a_name_that_nobody_answers_for_is_not_looked_for_elsewhere(
    nameserver: NameServer, tmp_path: Path
) -> None:
    (tmp_path / "resolv.conf").write_text("search a.test b.test", encoding="utf-8")
    nameserver.fail(Fault.SERVFAIL, name="db.a.test")
    nameserver.set("db.b.test", "127.0.0.5")
    with pytest.raises(NameResolutionError, match="SERVFAIL"):
        resolver_on(tmp_path, nameserver).lookup("db")


# How long it is kept.


def test_an_answer_is_kept_for_its_ttl(
    nameserver: NameServer, tmp_path: Path, clock: ManualClock
) -> None:
    resolver = resolver_on(tmp_path, nameserver, clock=clock)
    assert resolver.lookup("db.test").ttl == 60.0
    nameserver.set("db.test", "127.0.0.4", ttl=60)
    clock.now += 59.5
    assert resolver.lookup("db.test") == Answer(("127.0.0.2", "127.0.0.3", "::1"), 0.5)
    clock.now += 0.5
    assert resolver.lookup("db.test") == Answer(("127.0.0.4",), 60.0)


def test_who_comes_for_the_next_answer_a_moment_too_early_gets_it(
    nameserver: NameServer, tmp_path: Path, clock: ManualClock
) -> None:
    resolver = resolver_on(tmp_path, nameserver, clock=clock)
    resolver.lookup("db.test")
    nameserver.set("db.test", "127.0.0.4", ttl=60)
    clock.now += 59.999  # timers of uvloop, in whole milliseconds, may fire so early
    assert resolver.lookup("db.test") == Answer(("127.0.0.4",), 60.0)


def test_the_ttl_is_the_least_of_the_whole_chain(
    nameserver: NameServer, tmp_path: Path, clock: ManualClock
) -> None:
    nameserver.alias("alias.test", "middle.test", ttl=300)
    nameserver.alias("middle.test", "db.test", ttl=7)
    resolver = resolver_on(tmp_path, nameserver, clock=clock)
    assert resolver.lookup("alias.test").ttl == 7.0
    nameserver.alias("middle.test", "other.test", ttl=7)
    nameserver.set("other.test", "127.0.0.4", ttl=300)
    clock.now += 7.0
    assert resolver.lookup("alias.test").addresses == ("127.0.0.4",)


def test_a_ttl_of_0_is_none_of_300_seconds(
    nameserver: NameServer, tmp_path: Path, clock: ManualClock
) -> None:
    nameserver.set("db.test", "127.0.0.2", ttl=0)
    resolver = resolver_on(tmp_path, nameserver, clock=clock)
    assert resolver.lookup("db.test").ttl == 0.0
    nameserver.set("db.test", "127.0.0.4", ttl=0)
    clock.now += 1.0
    assert resolver.lookup("db.test").addresses == ("127.0.0.4",)


def test_what_is_to_expire_is_asked_for_again_but_not_within_a_second(
    nameserver: NameServer, tmp_path: Path, clock: ManualClock
) -> None:
    resolver = resolver_on(tmp_path, nameserver, clock=clock)
    resolver.lookup("db.test")
    clock.now += 0.9
    resolver.expire("DB.test")
    resolver.expire("never.asked.test")
    resolver.lookup("db.test")
    assert nameserver.count() == 2
    clock.now += 0.1
    resolver.lookup("db.test")
    assert nameserver.count() == 4


def test_a_failure_is_kept_for_a_second(
    nameserver: NameServer, tmp_path: Path, clock: ManualClock
) -> None:
    resolver = resolver_on(tmp_path, nameserver, clock=clock)
    for _ in range(5):
        with pytest.raises(NameResolutionError, match="NXDOMAIN"):
            resolver.lookup("nowhere.test")
    assert nameserver.count("nowhere.test") == 2
    nameserver.set("nowhere.test", "127.0.0.4")
    clock.now += 1.0
    assert resolver.lookup("nowhere.test").addresses == ("127.0.0.4",)


def test_names_are_bounded_in_number(nameserver: NameServer, tmp_path: Path) -> None:
    resolver = resolver_on(tmp_path, nameserver, max_retries=1)
    followed = resolver.follow("db.test")
    try:
        followed.addresses()
        (tmp_path / "hosts").write_text("", encoding="utf-8")
        nameserver.stop()  # so that look-ups fail at once

        async def all_of_them() -> None:
            await asyncio.gather(
                *(resolver.lookup_async(f"db{number}.test") for number in range(1100)),
                return_exceptions=True,
            )
            await asyncio.gather(
                *(resolver.lookup_async(f"db{number}.test") for number in range(2000, 2100)),
                return_exceptions=True,
            )

        asyncio.run(all_of_them())
        known = re.search(r"(\d+) names known", repr(resolver))
        assert known
        assert int(known[1]) <= 1101, "those that were being looked up at once, and no more"
        nameserver.start()
        nameserver.forget_questions()
        assert followed.addresses()
        assert resolver.lookup("db.test").addresses == followed.addresses()
        assert nameserver.count("db.test") == 0, "what is followed stays"
    finally:
        followed.close()


# Who shares it.


def test_eight_threads_share_one_look_up(nameserver: NameServer, tmp_path: Path) -> None:
    resolver = resolver_on(tmp_path, nameserver)
    nameserver.delay = 0.2
    barrier = threading.Barrier(8)

    def look_up(_: int) -> Answer:
        barrier.wait()
        return resolver.lookup("db.test")

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(look_up, range(8)))
    assert {answer.addresses for answer in answers} == {("127.0.0.2", "127.0.0.3", "::1")}
    assert nameserver.count() == 2, "one for each kind"


def test_eight_threads_share_one_look_up_also_by_the_function(nameserver: NameServer) -> None:
    nameserver.delay = 0.2
    barrier = threading.Barrier(8)

    def look_up(_: int) -> tuple[str, int]:
        barrier.wait()
        return get_ip_with_ttl("db.test", dns_nameservers=[nameserver.address])

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(look_up, range(8))) == {("127.0.0.2", 60)}
    assert nameserver.count() == 2


def test_threads_and_event_loops_share_one_look_up(nameserver: NameServer, tmp_path: Path) -> None:
    resolver = resolver_on(tmp_path, nameserver)
    nameserver.delay = 0.2
    barrier = threading.Barrier(6)

    def in_thread() -> Answer:
        barrier.wait()
        return resolver.lookup("db.test")

    def in_loop() -> Answer:
        async def both() -> Answer:
            one, other = await asyncio.gather(
                resolver.lookup_async("db.test"), resolver.lookup_async("db.test")
            )
            assert one.addresses == other.addresses
            return one

        barrier.wait()
        return asyncio.run(both())

    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(each) for each in [in_thread, in_loop] * 3]
        assert {each.result().addresses for each in asked} == {("127.0.0.2", "127.0.0.3", "::1")}
    assert nameserver.count() == 2


async def test_who_waits_no_more_leaves_the_look_up_to_the_others(
    nameserver: NameServer, tmp_path: Path
) -> None:
    resolver = resolver_on(tmp_path, nameserver)
    nameserver.delay = 0.2
    first = asyncio.ensure_future(resolver.lookup_async("db.test"))
    other = asyncio.ensure_future(resolver.lookup_async("db.test"))
    await asyncio.to_thread(nameserver.wait_for_questions, 2)
    first.cancel()
    assert (await other).addresses == ("127.0.0.2", "127.0.0.3", "::1")
    assert first.cancelled()
    assert nameserver.count() == 2


def test_an_event_loop_that_is_gone_leaves_the_look_up_to_the_others(
    nameserver: NameServer, tmp_path: Path
) -> None:
    resolver = resolver_on(tmp_path, nameserver)
    nameserver.delay = 0.8

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolver.lookup_async("db.test"), 0.05)

    asyncio.run(leave())
    assert resolver.lookup("db.test").addresses == ("127.0.0.2", "127.0.0.3", "::1")
    assert nameserver.count() == 2


async def test_the_event_loop_goes_on_while_a_name_is_looked_up(
    nameserver: NameServer, tmp_path: Path
) -> None:
    nameserver.delay = 0.6
    looking = asyncio.ensure_future(resolver_on(tmp_path, nameserver).lookup_async("db.test"))
    turns = 0
    while not looking.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 5


def test_all_resolvers_forget_at_once(
    nameserver: NameServer, tmp_path: Path, clock: ManualClock
) -> None:
    one, other = (resolver_on(tmp_path, nameserver, clock=clock) for _ in range(2))
    one.lookup("db.test")
    other.lookup("db.test")
    for resolver in (one, other):
        with pytest.raises(NameResolutionError):
            resolver.lookup("nowhere.test")
    nameserver.set("db.test", "127.0.0.4")
    nameserver.set("nowhere.test", "127.0.0.5")
    clear_dns_cache()
    for resolver in (one, other):
        assert resolver.lookup("db.test").addresses == ("127.0.0.4",)
        assert resolver.lookup("nowhere.test").addresses == ("127.0.0.5",)


# While nameservers fail.


@pytest.mark.parametrize("fault", FAILURES)
def test_an_old_answer_serves_while_nobody_gives_a_good_one(
    nameserver: NameServer, tmp_path: Path, clock: ManualClock, fault: Fault
) -> None:
    resolver = resolver_on(
        tmp_path, nameserver, clock=clock, timeout=ATTEMPT, max_retries=1, extend_grace=False
    )
    resolver.lookup("db.test")
    nameserver.fail(fault)
    clock.now += 60.0
    old = Answer(("127.0.0.2", "127.0.0.3", "::1"), 0.0)
    assert resolver.lookup("db.test") == old
    clock.now += 29.9
    assert resolver.lookup("db.test") == old
    clock.now += 0.1
    with pytest.raises(NameResolutionError, match=re.escape(nameserver.address)):
        resolver.lookup("db.test")
    clock.now += 1.0
    nameserver.heal()
    nameserver.set("db.test", "127.0.0.4")
    assert resolver.lookup("db.test").addresses == ("127.0.0.4",)


def test_the_time_of_grace_doubles_with_each_failure_in_a_row(
    nameserver: NameServer, tmp_path: Path, clock: ManualClock
) -> None:
    resolver = resolver_on(tmp_path, nameserver, clock=clock)
    resolver.lookup("db.test")
    nameserver.fail(Fault.SERVFAIL)
    ended = clock.now + 60.0
    for window in (30.0, 60.0, 120.0, 240.0, 300.0):
        clock.now = ended + window - 1.0
        before = nameserver.count()
        assert resolver.lookup("db.test").addresses
        nameserver.wait_for_questions(before + 6)  # three attempts, and one more failure
        until_no_lookups()
    clock.now = ended + 300.0
    with pytest.raises(NameResolutionError):
        resolver.lookup("db.test")


def test_who_asks_for_a_name_that_fails_does_not_wait(
    nameserver: NameServer, tmp_path: Path, clock: ManualClock
) -> None:
    resolver = resolver_on(tmp_path, nameserver, clock=clock, timeout=1, max_retries=1)
    resolver.lookup("db.test")
    nameserver.fail(Fault.SILENT)
    clock.now += 60.0
    began = time.monotonic()
    resolver.lookup("db.test")  # the first caller learns that nobody answers
    learned = time.monotonic()
    clock.now += 1.0
    assert resolver.lookup("db.test").addresses
    assert time.monotonic() - learned < (learned - began) / 2
    until_no_lookups()


def test_an_empty_answer_after_a_good_one_is_suspicious_and_told_once(
    nameserver: NameServer,
    tmp_path: Path,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    resolver = resolver_on(tmp_path, nameserver, clock=clock)
    resolver.lookup("db.test")
    nameserver.fail(Fault.EMPTY)
    caplog.set_level(logging.INFO, "hasql")
    clock.now += 60.0
    for _ in range(3):
        resolver.lookup("db.test")
        until_no_lookups()
        clock.now += 10.0
    nameserver.heal()
    resolver.lookup("db.test")
    until_no_lookups()
    warning, back = (record.getMessage() for record in caplog.records)
    assert "db.test suddenly has no records, which is suspicious" in warning
    assert "127.0.0.2, 127.0.0.3, ::1" in warning
    assert "DNS answers for db.test again" in back


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.SILENT, Fault.GARBAGE])
@pytest.mark.parametrize(
    ("kind", "kept"), [("A", ("127.0.0.2", "127.0.0.3", "::9")), ("AAAA", ("127.0.0.9", "::1"))]
)
def test_a_kind_that_fails_alone_keeps_its_last_answer(  # noqa: PLR0913  # fixtures and cases
    nameserver: NameServer,
    tmp_path: Path,
    clock: ManualClock,
    fault: Fault,
    kind: str,
    kept: tuple[str, ...],
) -> None:
    resolver = resolver_on(tmp_path, nameserver, clock=clock, timeout=ATTEMPT, max_retries=1)
    resolver.lookup("db.test")
    nameserver.set("db.test", "127.0.0.9", "::9", ttl=60)
    nameserver.fail(fault, kind=kind)
    clock.now += 60.0
    assert resolver.lookup("db.test").addresses == kept
    nameserver.heal()
    clock.now += 5.0
    assert resolver.lookup("db.test").addresses == ("127.0.0.9", "::9"), "it is soon asked again"


def test_a_first_answer_without_one_kind_is_an_answer(
    nameserver: NameServer, tmp_path: Path
) -> None:
    nameserver.fail(Fault.SERVFAIL, kind="AAAA")
    answer = resolver_on(tmp_path, nameserver).lookup("db.test")
    assert answer.addresses == ("127.0.0.2", "127.0.0.3")


def test_a_kind_that_is_never_answered_holds_up_the_other_for_a_second_at_most(
    nameserver: NameServer, tmp_path: Path
) -> None:
    nameserver.fail(Fault.SILENT, kind="AAAA")  # as broken load balancers do
    began = time.monotonic()
    answer = resolver_on(tmp_path, nameserver).lookup("db.test")
    assert answer.addresses == ("127.0.0.2", "127.0.0.3")
    assert time.monotonic() - began < 4, "a third of one attempt"


# Whom it asks.


@pytest.fixture
def second() -> Iterator[NameServer]:
    with NameServer() as server:
        server.set("db.test", "127.0.0.22", ttl=1)
        yield server


@pytest.mark.parametrize(
    "fault", [Fault.SERVFAIL, Fault.REFUSED, Fault.SILENT, Fault.GARBAGE, Fault.STRANGE, None]
)
def test_nameservers_are_asked_in_turn(
    nameserver: NameServer,
    second: NameServer,
    tmp_path: Path,
    clock: ManualClock,
    fault: Fault | None,
) -> None:
    if fault is None:
        nameserver.stop()  # its port refuses
    else:
        nameserver.fail(fault)
    servers = [nameserver.address, second.address]
    resolver = resolver_on(tmp_path, None, clock=clock, timeout=ATTEMPT, nameservers=servers)
    assert resolver.lookup("db.test").addresses == ("127.0.0.22",)
    before = nameserver.count()
    clock.now += 60.0
    assert resolver.lookup("db.test").addresses == ("127.0.0.22",)
    assert nameserver.count() == before, "who has answered is asked first the next time"


def test_a_nameserver_that_denies_a_name_is_believed(
    nameserver: NameServer, second: NameServer, tmp_path: Path
) -> None:
    nameserver.remove("db.test")
    servers = [nameserver.address, second.address]
    with pytest.raises(NameResolutionError, match="NXDOMAIN"):
        resolver_on(tmp_path, None, nameservers=servers).lookup("db.test")
    assert second.count() == 0


@pytest.mark.parametrize("retries", [1, 2, 3])
def test_the_attempts_are_so_many_in_all(
    nameserver: NameServer, second: NameServer, tmp_path: Path, retries: int
) -> None:
    for server in (nameserver, second):
        server.fail(Fault.SERVFAIL)
    servers = [nameserver.address, second.address]
    resolver = resolver_on(tmp_path, None, nameservers=servers, max_retries=retries)
    with pytest.raises(NameResolutionError):
        resolver.lookup("db.test")
    assert nameserver.count("db.test", "A") + second.count("db.test", "A") == retries


def test_an_attempt_takes_its_timeout_at_most_whatever_the_wall_clock_does(
    nameserver: NameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nameserver.fail(Fault.SILENT)
    resolver = resolver_on(tmp_path, nameserver, timeout=0.2, max_retries=2)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the wall clock stands still
    began = time.monotonic()
    with pytest.raises(NameResolutionError, match="no answer in time"):
        resolver.lookup("db.test")
    assert 0.35 < time.monotonic() - began < 2.0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.SERVFAIL, "answered SERVFAIL"),
        (Fault.REFUSED, "answered REFUSED"),
        (Fault.SILENT, "gave no answer in time"),
        (Fault.STRANGE, "gave no answer in time"),
        (Fault.GARBAGE, "answered nonsense"),
        (Fault.MISTAKEN, "answered another question"),
        (Fault.NXDOMAIN, "does not exist"),
        (Fault.EMPTY, "has no A or AAAA records"),
        (None, "could not be asked"),
    ],
)
def test_the_error_names_the_host_the_servers_and_what_each_said(
    nameserver: NameServer, tmp_path: Path, fault: Fault | None, said: str
) -> None:
    if fault is None:
        nameserver.stop()
    else:
        nameserver.fail(fault)
    timeout = 0.1 if said == "gave no answer in time" else 2.0
    resolver = resolver_on(tmp_path, nameserver, timeout=timeout)
    with pytest.raises(NameResolutionError) as caught:
        resolver.lookup("db.test")
    message = str(caught.value)
    assert message.startswith("'db.test' cannot be resolved: ")
    assert f"{nameserver.address} {said}" in message or (
        f"{nameserver.address} answered that db.test {said}" in message
    )
    assert isinstance(caught.value, HasqlError)
    assert isinstance(caught.value, OSError)


def test_the_nameservers_of_resolv_conf_are_asked_where_none_are_given(tmp_path: Path) -> None:
    # No server listens on the DNS port there, and the error tells which one was asked.
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.5.3\n", encoding="utf-8")
    with pytest.raises(NameResolutionError, match=r"127\.0\.5\.3 "):
        resolver_on(tmp_path, None, timeout=0.1).lookup("db.test")


def test_nameservers_may_have_ipv6_addresses(tmp_path: Path) -> None:
    with NameServer(listen="::1") as server:
        server.set("db.test", "127.0.0.2")
        server.set("big.test", *(f"127.0.1.{number}" for number in range(100)))
        resolver = resolver_on(tmp_path, server)
        assert server.address.startswith("[::1]:")
        assert resolver.lookup("db.test").addresses == ("127.0.0.2",)
        assert len(resolver.lookup("big.test").addresses) == 100


# The system's resolver.


def test_the_system_is_asked_when_dns_fails(
    nameserver: NameServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The system has this name in its own hosts file; the resolver's file is empty here.
    nameserver.fail(Fault.SERVFAIL)
    resolver = resolver_on(tmp_path, nameserver, fallback=True)
    answer = resolver.lookup("localhost")
    assert set(answer.addresses) <= {"127.0.0.1", "::1"}
    assert 0 < answer.ttl <= 5
    assert "localhost now has its addresses from the system's resolver" in caplog.text
    resolver.lookup("localhost")
    assert nameserver.count("localhost", "A") == 3, "one look-up, of three attempts"


def test_the_system_is_not_asked_where_it_is_not_to_be(
    nameserver: NameServer, tmp_path: Path
) -> None:
    nameserver.fail(Fault.SERVFAIL)
    with pytest.raises(NameResolutionError):
        resolver_on(tmp_path, nameserver).lookup("localhost")


def test_an_old_answer_goes_before_the_system(
    nameserver: NameServer, tmp_path: Path, clock: ManualClock
) -> None:
    nameserver.set("localhost", "127.0.0.8", ttl=60)
    resolver = resolver_on(tmp_path, nameserver, clock=clock, fallback=True, extend_grace=False)
    resolver.lookup("localhost")
    nameserver.fail(Fault.SERVFAIL)
    clock.now += 60.0
    assert resolver.lookup("localhost").addresses == ("127.0.0.8",)
    clock.now += 30.0
    assert "127.0.0.8" not in resolver.lookup("localhost").addresses
    clock.now += 5.0
    nameserver.heal()
    resolver.lookup("localhost")
    until_no_lookups()
    assert resolver.lookup("localhost").addresses == ("127.0.0.8",), "DNS is back"


def test_the_system_is_asked_again_while_dns_fails(
    nameserver: NameServer, tmp_path: Path, clock: ManualClock
) -> None:
    nameserver.fail(Fault.SERVFAIL)
    resolver = resolver_on(tmp_path, nameserver, clock=clock, fallback=True)
    assert resolver.lookup("localhost").ttl == 5.0
    clock.now += 5.0
    assert resolver.lookup("localhost").ttl == 0.0, "nobody waits for that"
    until_no_lookups()
    assert resolver.lookup("localhost").ttl == 5.0


def test_what_the_system_said_is_in_the_error(nameserver: NameServer, tmp_path: Path) -> None:
    resolver = resolver_on(tmp_path, nameserver, fallback=True)
    with pytest.raises(NameResolutionError, match=r"NXDOMAIN.*; the system's resolver: "):
        resolver.lookup("nowhere.invalid")


# One address.


def test_the_function_returns_an_address_and_whole_seconds(nameserver: NameServer) -> None:
    for _ in range(2):
        address, ttl = get_ip_with_ttl("db.test", dns_nameservers=[nameserver.address])
        assert (address, ttl) == ("127.0.0.2", 60)
    assert nameserver.count() == 2
    assert get_ip_with_ttl("127.0.0.9")[0] == "127.0.0.9"
    clear_dns_cache()
    get_ip_with_ttl("db.test", dns_nameservers=[nameserver.address])
    assert nameserver.count() == 4


def test_the_function_asks_each_time_where_the_ttl_is_0(nameserver: NameServer) -> None:
    for number in range(3):
        nameserver.set("db.test", f"127.0.0.{number}", ttl=0)
        found = get_ip_with_ttl("db.test", dns_nameservers=[nameserver.address])
        assert found == (f"127.0.0.{number}", 0)
    nameserver.fail(Fault.SERVFAIL)
    assert get_ip_with_ttl("db.test", dns_nameservers=[nameserver.address]) == ("127.0.0.2", 0)


def test_the_function_never_asks_the_system(nameserver: NameServer) -> None:
    with pytest.raises(NameResolutionError) as caught:
        get_ip_with_ttl("nowhere.test", dns_nameservers=[nameserver.address])
    assert "system" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dns_timeout": 0},
        {"dns_nameservers": ["dns.example.com"]},
        {"dns_grace_ttl": -1},
        {"dns_max_retries": 0},
    ],
)
def test_the_function_names_the_argument_that_is_wrong(wrong: dict[str, Any]) -> None:
    (named,) = wrong
    with pytest.raises(ConfigurationError, match=f"^{named}"):
        get_ip_with_ttl("db.test", **wrong)


# Services.


async def test_the_targets_of_a_service_are_found(nameserver: NameServer, tmp_path: Path) -> None:
    nameserver.set_srv("_p._tcp.test", (1, 5, 5432, "a.test"), (2, 0, 5433, "b.test"), ttl=30)
    resolver = resolver_on(tmp_path, nameserver)
    answer = await resolver.lookup_srv_async("_p._tcp.test")
    assert set(answer.targets) == {
        SrvTarget("a.test", 5432, priority=1, weight=5),
        SrvTarget("b.test", 5433, priority=2, weight=0),
    }
    assert 29 < answer.ttl <= 30
    assert (await resolver.lookup_srv_async("_P._tcp.test")).targets == answer.targets
    assert nameserver.count() == 1


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ([(0, 0, 0, "")], "not offered"),
        ([(0, 0, 0, "a.test")], "without a host or port"),
        ([(0, 0, 5432, ""), (0, 0, 5432, "a.test")], "without a host or port"),
        ([], "does not exist"),
    ],
)
async def test_a_service_that_nobody_can_use_is_an_error_that_says_so(
    nameserver: NameServer, tmp_path: Path, targets: list[tuple[int, int, int, str]], said: str
) -> None:
    if targets:
        nameserver.set_srv("_p._tcp.test", *targets)
    resolver = resolver_on(tmp_path, nameserver, fallback=True)
    with pytest.raises(NameResolutionError, match=f"'_p._tcp.test'.*{said}"):
        await resolver.lookup_srv_async("_p._tcp.test")


async def test_old_services_do_not_serve(
    nameserver: NameServer, tmp_path: Path, clock: ManualClock
) -> None:
    nameserver.set_srv("_p._tcp.test", (1, 5, 5432, "a.test"), ttl=30)
    resolver = resolver_on(tmp_path, nameserver, clock=clock)
    await resolver.lookup_srv_async("_p._tcp.test")
    nameserver.fail(Fault.SERVFAIL)
    clock.now += 30.0
    with pytest.raises(NameResolutionError, match="SERVFAIL"):
        await resolver.lookup_srv_async("_p._tcp.test")


# What is not a name.


@pytest.mark.parametrize("wrong", ["", "/run/postgresql", "a b", "a\n"])
async def test_what_is_no_name_is_refused(tmp_path: Path, wrong: str) -> None:
    resolver = resolver_on(tmp_path, None)
    for use in (resolver.lookup, resolver.follow, resolver.expire):
        with pytest.raises(ConfigurationError, match="name or an address"):
            use(wrong)
    for use_async in (resolver.lookup_async, resolver.lookup_srv_async):
        with pytest.raises(ConfigurationError, match="name or an address"):
            await use_async(wrong)


@pytest.mark.parametrize("wrong", [None, b"db.test", 7])
def test_a_name_is_a_text(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(TypeError, match="host must be a str"):
        resolver_on(tmp_path, None).lookup(wrong)


@pytest.mark.parametrize("wrong", ["a..b", f"{'a' * 64}.test", ".".join(["a" * 60] * 5), "."])
def test_a_name_that_dns_cannot_have_leads_nowhere(
    nameserver: NameServer, tmp_path: Path, wrong: str
) -> None:
    with pytest.raises(NameResolutionError):
        resolver_on(tmp_path, nameserver).lookup(wrong)


def test_a_resolver_shows_whom_it_asks() -> None:
    assert repr(Resolver(nameservers=["10.0.0.2:5353", "[::1]"])) == (
        "<Resolver nameservers: 10.0.0.2:5353, [::1]; 0 names known>"
    )
    assert "resolv.conf" in repr(Resolver())
