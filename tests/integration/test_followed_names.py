"""A followed name is looked up in the background, so that a caller need not wait."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from timeit import timeit
from typing import TYPE_CHECKING

import pytest

from hasql import NameResolutionError
from hasql.dns import Resolver, clear_dns_cache
from hasql.dns.background import lookup_thread
from testbed.nameserver import Fault, NameServer
from testbed.pace import Pace
from testbed.resolvers import ManualClock, resolver_on, thread_of_lookups, until_no_lookups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def nameserver() -> Iterator[NameServer]:
    with NameServer() as server:
        server.set("db.test", "127.0.0.2", "127.0.0.3", ttl=1)
        yield server
    until_no_lookups()


def until(condition: Callable[[], bool], within: float = 10.0) -> float:
    """Wait until another thread has made the condition true; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, "it has not happened"
        time.sleep(0.001)
    return time.monotonic() - began


def test_the_collector_waits_for_no_thread_that_waits_for_it(
    nameserver: NameServer, tmp_path: Path
) -> None:
    """It may finalize a followed name anywhere, even in a thread that holds one of their locks."""
    followed = [resolver_on(tmp_path, nameserver).follow("db.test")]
    assert followed[0].addresses()  # now no look-up is under way
    name = followed[0]._name  # noqa: SLF001  # another thread takes its lock
    waits = threading.Event()

    def look_up() -> None:
        with name._lock:  # noqa: SLF001  # as above
            waits.set()
            lookup_thread.call(int)

    other = threading.Thread(target=look_up, daemon=True)
    with lookup_thread._lock:  # noqa: SLF001  # `hold` has it while it makes objects
        other.start()
        assert waits.wait(10)
        followed.clear()  # a finalizer runs
    other.join(10)
    assert not other.is_alive()


def test_what_a_name_has_left_is_known_within_its_ttl(
    nameserver: NameServer, tmp_path: Path
) -> None:
    with closing(resolver_on(tmp_path, nameserver).follow("db.test")) as followed:
        assert followed.addresses() == ("127.0.0.2", "127.0.0.3")
        took: list[float] = []
        old = "127.0.0.2"
        while len(took) < 2 or (min(took) >= 1.5 and len(took) < 5):
            assert not followed.has_left(old)
            new = f"127.0.0.{len(took) + 4}"
            nameserver.set("db.test", "127.0.0.3", new, ttl=1)
            took.append(until(lambda old=old: followed.has_left(old)))  # type: ignore[misc]
            assert followed.addresses() == ("127.0.0.3", new)
            assert not followed.has_left("127.0.0.3")
            old = new
        assert min(took) < 1.5, "a TTL of one second; a busy machine only adds to it"


def test_a_ttl_of_0_is_asked_for_each_second(nameserver: NameServer, tmp_path: Path) -> None:
    nameserver.set("db.test", "127.0.0.2", ttl=0)
    with closing(resolver_on(tmp_path, nameserver).follow("db.test")) as followed:
        assert followed.addresses() == ("127.0.0.2",)
        # However often a caller asks.
        took = until(lambda: bool(followed.addresses()) and nameserver.count("db.test", "A") >= 3)
        assert took > 1.8


def test_nothing_has_left_before_the_first_answer(nameserver: NameServer, tmp_path: Path) -> None:
    nameserver.fail(Fault.SILENT)
    with closing(resolver_on(tmp_path, nameserver, timeout=1.0).follow("db.test")) as followed:
        assert not followed.has_left("127.0.0.9")
        nameserver.heal()
        assert followed.addresses() == ("127.0.0.2", "127.0.0.3"), "it waits for the first one"
        assert followed.has_left("127.0.0.9")


async def test_the_first_answer_can_be_awaited(nameserver: NameServer, tmp_path: Path) -> None:
    nameserver.set("db.test", "127.0.0.2", "127.0.0.3", ttl=600)
    nameserver.delay = 0.6
    with closing(resolver_on(tmp_path, nameserver).follow("db.test")) as followed:
        turns = 0
        asking = asyncio.ensure_future(followed.addresses_async())
        while not asking.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 5
        assert await asking == ("127.0.0.2", "127.0.0.3")
        assert await followed.addresses_async() == ("127.0.0.2", "127.0.0.3")
        assert nameserver.count() == 2


async def test_a_name_that_was_never_answered_cannot_be_resolved(
    nameserver: NameServer, tmp_path: Path
) -> None:
    with closing(resolver_on(tmp_path, nameserver).follow("nowhere.test")) as followed:
        with pytest.raises(NameResolutionError, match=r"'nowhere\.test'.*NXDOMAIN"):
            followed.addresses()
        with pytest.raises(NameResolutionError, match=r"'nowhere\.test'.*NXDOMAIN"):
            await followed.addresses_async()
        nameserver.set("nowhere.test", "127.0.0.2")
        nameserver.wait_for_questions(3, "nowhere.test", "A")  # the third by itself, after a second

        def is_known() -> bool:
            with suppress(NameResolutionError):  # it has asked, but has no answer yet
                return followed.addresses() == ("127.0.0.2",)
            return False

        until(is_known)


@pytest.mark.parametrize("fault", [Fault.SILENT, Fault.SERVFAIL, Fault.NXDOMAIN])
def test_nobody_waits_while_nameservers_fail_and_nothing_leaves(
    nameserver: NameServer, tmp_path: Path, fault: Fault
) -> None:
    resolver = resolver_on(tmp_path, nameserver, timeout=0.3)
    with closing(resolver.follow("db.test")) as followed:
        followed.addresses()
        nameserver.fail(fault)
        pace = Pace(0.15)  # half of one timeout
        while nameserver.count() < 6:  # until two look-ups, or two attempts, have failed
            with pace.working():
                assert followed.addresses() == ("127.0.0.2", "127.0.0.3")
                assert not followed.has_left("127.0.0.2")
            with pace.pausing():
                time.sleep(0.001)
        assert pace.slow <= 1
        nameserver.heal()
        nameserver.set("db.test", "127.0.0.4")
        until(lambda: followed.addresses() == ("127.0.0.4",))


def test_after_grace_there_is_an_error_and_still_nothing_has_left(
    nameserver: NameServer, tmp_path: Path
) -> None:
    resolver = resolver_on(tmp_path, nameserver, grace_ttl=0.2, extend_grace=False)
    with closing(resolver.follow("db.test")) as followed:
        followed.addresses()
        nameserver.fail(Fault.SERVFAIL)

        def fails() -> bool:
            try:
                followed.addresses()
            except NameResolutionError:
                return True
            return False

        until(fails)
        with pytest.raises(NameResolutionError, match="SERVFAIL"):
            followed.addresses()
        assert not followed.has_left("127.0.0.2"), "a pooled socket serves on"
        assert followed.has_left("127.0.0.9"), "by what was known last"
        nameserver.heal()
        until(lambda: not fails())


def test_a_silent_nameserver_is_a_failure_before_the_look_up_has_ended(
    nameserver: NameServer, tmp_path: Path
) -> None:
    # Three attempts take longer than the grace time; the failure of the second one doubles that.
    resolver = resolver_on(tmp_path, nameserver, timeout=0.4, grace_ttl=1.0)
    with closing(resolver.follow("db.test")) as followed:
        followed.addresses()
        nameserver.fail(Fault.SILENT)
        began, pace = time.monotonic(), Pace(0.2)
        while time.monotonic() - began < 2.6:
            with pace.working():
                assert followed.addresses() == ("127.0.0.2", "127.0.0.3")
            with pace.pausing():
                time.sleep(0.001)
        assert pace.slow < 3  # if calls waited for the nameserver, all six would be slow


def test_a_name_that_rotates_has_left_none_of_its_addresses(
    nameserver: NameServer, tmp_path: Path
) -> None:
    nameserver.rotate("db.test", "127.0.0.2", "127.0.0.3", ttl=0)
    with closing(resolver_on(tmp_path, nameserver).follow("db.test")) as followed:
        for address in ("127.0.0.2", "127.0.0.3", "127.0.0.2"):
            until(lambda: followed.addresses() == (address,))  # noqa: B023  # within the turn
        until(lambda: not followed.has_left("127.0.0.2") and not followed.has_left("127.0.0.3"))
        nameserver.wait_for_questions(5, "db.test", "A")
        assert not followed.has_left("127.0.0.2")
        assert not followed.has_left("127.0.0.3")


def test_what_is_to_expire_is_asked_for_again_in_the_background(
    nameserver: NameServer, tmp_path: Path
) -> None:
    nameserver.set("db.test", "127.0.0.2", ttl=600)
    resolver = resolver_on(tmp_path, nameserver)
    with closing(resolver.follow("db.test")) as followed:
        followed.addresses()
        nameserver.set("db.test", "127.0.0.4", ttl=600)
        began = time.monotonic()
        for _ in range(50):
            resolver.expire("db.test")
        until(lambda: followed.has_left("127.0.0.2"))
        assert time.monotonic() - began > 0.9, "at most once a second"
        assert nameserver.count() == 4


def test_the_hosts_file_is_followed_as_well(nameserver: NameServer, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.7 db.test", encoding="utf-8")
    with closing(resolver_on(tmp_path, nameserver).follow("db.test")) as followed:
        assert followed.addresses() == ("127.0.0.7",)
        hosts.write_text("127.0.0.17 db.test", encoding="utf-8")
        until(lambda: followed.has_left("127.0.0.7"))
        assert nameserver.count() == 0
        hosts.unlink()
        until(lambda: followed.addresses() == ("127.0.0.2", "127.0.0.3"))


async def test_an_address_in_the_place_of_a_name_never_leaves(tmp_path: Path) -> None:
    with closing(resolver_on(tmp_path, None).follow("::1")) as followed:
        assert thread_of_lookups() is None
        assert followed.addresses() == await followed.addresses_async() == ("::1",)
        assert not followed.has_left("127.0.0.2")


def test_it_is_known_at_once_to_who_looks_up_what_others_follow(
    nameserver: NameServer, tmp_path: Path
) -> None:
    nameserver.set("db.test", "127.0.0.2", "127.0.0.3", ttl=600)
    resolver = resolver_on(tmp_path, nameserver)
    with closing(resolver.follow("db.test")) as one, closing(resolver.follow("DB.test")) as other:
        assert one.addresses() == other.addresses() == resolver.lookup("db.test").addresses
        assert nameserver.count() == 2


def test_who_follows_is_told_anew_after_all_is_forgotten(
    nameserver: NameServer, tmp_path: Path
) -> None:
    nameserver.set("db.test", "127.0.0.2", ttl=600)
    with closing(resolver_on(tmp_path, nameserver, timeout=1).follow("db.test")) as followed:
        followed.addresses()
        nameserver.set("db.test", "127.0.0.4", ttl=600)
        nameserver.fail(Fault.SILENT)
        clear_dns_cache()
        assert not followed.has_left("127.0.0.2"), "nothing is known"
        nameserver.heal()
        assert followed.addresses() == ("127.0.0.4",)
        assert followed.has_left("127.0.0.2")


def test_an_answer_to_what_was_asked_before_all_was_forgotten_counts_no_more(
    nameserver: NameServer, tmp_path: Path
) -> None:
    nameserver.delay = 0.3
    with closing(resolver_on(tmp_path, nameserver).follow("db.test")) as followed:
        nameserver.wait_for_questions(2)
        nameserver.set("db.test", "127.0.0.4", ttl=600)
        clear_dns_cache()
        assert followed.addresses() == ("127.0.0.4",)


# The look-up thread.


def test_the_thread_is_there_while_a_name_is_followed_and_no_longer(
    nameserver: NameServer, tmp_path: Path
) -> None:
    resolver, other = (resolver_on(tmp_path, nameserver) for _ in range(2))
    until_no_lookups()
    one = resolver.follow("db.test")
    two = other.follow("db.test")
    three = other.follow("db.test")
    one.close()
    one.close()
    two.close()
    assert three.addresses()
    one_for_all = thread_of_lookups()
    nameserver.set("db.test", "127.0.0.4")
    until(lambda: three.has_left("127.0.0.2"))
    assert thread_of_lookups() is one_for_all is not None
    three.close()
    until_no_lookups()
    assert three.addresses(), "what is known can be asked for"
    again = resolver.follow("db.test")
    assert again.addresses()
    again.close()
    until_no_lookups()


def test_a_name_that_is_collected_is_followed_no_more(
    nameserver: NameServer, tmp_path: Path
) -> None:
    followed = resolver_on(tmp_path, nameserver).follow("db.test")
    followed.addresses()
    del followed
    gc.collect()
    until_no_lookups()


def test_many_threads_may_follow_and_let_go_at_once(nameserver: NameServer, tmp_path: Path) -> None:
    resolver = resolver_on(tmp_path, nameserver)
    failures: list[BaseException] = []

    def follow() -> None:
        try:
            for _ in range(100):
                with closing(resolver.follow("db.test")) as followed:
                    assert followed.addresses()
        except BaseException as error:  # noqa: BLE001  # whatever it is
            failures.append(error)

    threads = [threading.Thread(target=follow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    until_no_lookups()
    with closing(resolver.follow("db.test")) as followed:
        before = nameserver.count()
        nameserver.wait_for_questions(before + 2)
        assert followed.addresses()


def test_to_ask_costs_less_than_a_microsecond_or_a_few(
    nameserver: NameServer, tmp_path: Path
) -> None:
    nameserver.set("db.test", "127.0.0.2", ttl=600)
    with closing(resolver_on(tmp_path, nameserver).follow("db.test")) as followed:
        followed.addresses()
        best = min(timeit(lambda: followed.has_left("127.0.0.2"), number=1000) for _ in range(20))
        assert best / 1000 < 3e-6
        best = min(timeit(followed.addresses, number=1000) for _ in range(20))
        assert best / 1000 < 3e-6


def test_a_process_that_stood_still_asks_before_it_believes(
    nameserver: NameServer, tmp_path: Path
) -> None:
    clock = ManualClock()
    nameserver.set("db.test", "127.0.0.2", ttl=600)
    with closing(resolver_on(tmp_path, nameserver, clock=clock).follow("db.test")) as followed:
        followed.addresses()
        nameserver.set("db.test", "127.0.0.4", ttl=600)
        clock.now += 7200.0
        assert followed.addresses() == ("127.0.0.4",)


_FORKS = """
import os, sys, threading, time, warnings
from hasql.dns import Resolver
from testbed.nameserver import NameServer

warnings.simplefilter("ignore", DeprecationWarning)  # of threads

def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.001)

def threads():
    return [thread.name for thread in threading.enumerate() if thread.name == "hasql-dns"]

with NameServer() as nameserver:
    nameserver.set("db.test", "127.0.0.2", ttl=1)
    resolver = Resolver(nameservers=[nameserver.address])
    followed = resolver.follow("db.test")
    assert followed.addresses() == ("127.0.0.2",)
    nameserver.delay = 0.2
    nameserver.forget_questions()
    nameserver.wait_for_questions(1)  # one is under way while it is forked
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert threads() == []
            {use}
            assert threads() == ["hasql-dns"]
            until(lambda: followed.has_left("127.0.0.2"))
            assert followed.addresses() == ("127.0.0.4",)
            assert resolver.lookup("db.test").addresses == ("127.0.0.4",)
            followed.close()
            until(lambda: threads() == [])
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    nameserver.delay = 0.0
    nameserver.set("db.test", "127.0.0.4", ttl=1)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    until(lambda: followed.has_left("127.0.0.2"))
    nameserver.set("db.test", "127.0.0.5", ttl=1)
    until(lambda: followed.has_left("127.0.0.4"))  # the parent's thread goes on
    assert followed.addresses() == ("127.0.0.5",)
    followed.close()
    until(lambda: threads() == [])
print("well")
"""


@pytest.mark.parametrize(
    "use",
    [
        "followed.has_left('127.0.0.2')",
        "followed.addresses()",
    ],
)
def test_in_a_forked_child_it_goes_on_with_the_first_use(use: str) -> None:
    result = run(_FORKS.format(use=use))
    assert (result.stdout, result.stderr) == ("well\n", "")


def test_a_program_that_closes_nothing_ends_at_once() -> None:
    program = """
import logging
from hasql.dns import Resolver
from testbed.nameserver import Fault, NameServer

nameserver = NameServer()
nameserver.start()
nameserver.set("db.test", "127.0.0.2", ttl=0)
resolver = Resolver(nameservers=[nameserver.address])
followed = resolver.follow("db.test")
followed.addresses()
nameserver.fail(Fault.SILENT)
hanging = Resolver(nameservers=[nameserver.address]).follow("other.test")
nameserver.stop()
print("that was all", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "that was all\n"
        began = time.monotonic()
        assert (running.communicate(timeout=50), running.returncode) == (("", ""), 0)
        assert time.monotonic() - began < 8.0, "no attempt of twelve seconds is waited for"


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_a_resolver_that_nobody_holds_is_there_while_its_name_is_followed(
    nameserver: NameServer,
) -> None:
    followed = Resolver(nameservers=[nameserver.address]).follow("db.test")
    try:
        followed.addresses()
        gc.collect()
        nameserver.set("db.test", "127.0.0.4", ttl=600)
        clear_dns_cache()  # which reaches that resolver, too
        assert followed.addresses() == ("127.0.0.4",)
    finally:
        followed.close()
