"""The nameserver of the tests answers as a real one does, and fails as it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

from testbed.nameserver import Fault, NameServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def nameserver() -> Iterator[NameServer]:
    with NameServer() as server:
        yield server


def ask(
    server: NameServer, name: str, kind: str = "A", timeout: float = 5.0
) -> dns.message.QueryMessage:
    message, _ = dns.query.udp_with_fallback(
        dns.message.make_query(name, kind), "127.0.0.1", timeout, server.port
    )
    assert isinstance(message, dns.message.QueryMessage)
    return message


def texts(message: dns.message.QueryMessage) -> list[str]:
    answer = message.resolve_chaining().answer
    return [] if answer is None else [record.to_text() for record in answer]


def test_a_name_has_the_addresses_of_both_kinds_it_was_given(nameserver: NameServer) -> None:
    nameserver.set("db.test", "127.0.0.2", "::1", "127.0.0.3", ttl=7)
    assert sorted(texts(ask(nameserver, "DB.test"))) == ["127.0.0.2", "127.0.0.3"]
    assert texts(ask(nameserver, "db.test", "AAAA")) == ["::1"]
    assert ask(nameserver, "db.test").resolve_chaining().minimum_ttl == 7
    nameserver.set("db.test", "127.0.0.4")
    assert texts(ask(nameserver, "db.test")) == ["127.0.0.4"]
    empty = ask(nameserver, "db.test", "AAAA")
    assert (texts(empty), empty.rcode()) == ([], dns.rcode.NOERROR)


def test_a_name_that_was_removed_does_not_exist(nameserver: NameServer) -> None:
    nameserver.set("db.test", "127.0.0.2")
    nameserver.remove("db.test")
    assert ask(nameserver, "db.test").rcode() == dns.rcode.NXDOMAIN


def test_a_chain_has_the_times_of_all_its_records(nameserver: NameServer) -> None:
    nameserver.alias("db.test", "a.test", ttl=300)
    nameserver.alias("a.test", "b.test", ttl=2)
    nameserver.set("b.test", "127.0.0.2", ttl=600)
    chain = ask(nameserver, "db.test").resolve_chaining()
    assert (chain.canonical_name.to_text(), chain.minimum_ttl) == ("b.test.", 2)


def test_a_rotating_name_shows_one_address_an_answer(nameserver: NameServer) -> None:
    nameserver.rotate("db.test", "127.0.0.2", "127.0.0.3")
    shown = [texts(ask(nameserver, "db.test")) for _ in range(3)]
    assert shown == [["127.0.0.2"], ["127.0.0.3"], ["127.0.0.2"]]


def test_targets_have_priority_weight_and_port(nameserver: NameServer) -> None:
    nameserver.set_srv("_p._tcp.test", (1, 2, 5432, "db1.test"), (0, 0, 0, ""))
    assert sorted(texts(ask(nameserver, "_p._tcp.test", "SRV"))) == [
        "0 0 0 .",
        "1 2 5432 db1.test.",
    ]


def test_a_hundred_records_come_over_tcp(nameserver: NameServer) -> None:
    nameserver.set("db.test", *(f"127.0.1.{number}" for number in range(100)))
    assert len(texts(ask(nameserver, "db.test"))) == 100
    assert [question.tcp for question in nameserver.questions] == [False, True]


@pytest.mark.parametrize(
    ("fault", "rcode"),
    [
        (Fault.SERVFAIL, dns.rcode.SERVFAIL),
        (Fault.REFUSED, dns.rcode.REFUSED),
        (Fault.NXDOMAIN, dns.rcode.NXDOMAIN),
        (Fault.EMPTY, dns.rcode.NOERROR),
    ],
)
def test_it_refuses_in_each_way(
    nameserver: NameServer, fault: Fault, rcode: dns.rcode.Rcode
) -> None:
    nameserver.set("db.test", "127.0.0.2")
    nameserver.fail(fault)
    message = ask(nameserver, "db.test")
    assert (message.rcode(), message.answer) == (rcode, [])


def test_truncated_answers_are_whole_over_tcp(nameserver: NameServer) -> None:
    nameserver.set("db.test", "127.0.0.2")
    nameserver.fail(Fault.TRUNCATED)
    assert texts(ask(nameserver, "db.test")) == ["127.0.0.2"]


def test_it_is_silent_and_talks_nonsense(nameserver: NameServer) -> None:
    nameserver.set("db.test", "127.0.0.2")
    nameserver.fail(Fault.SILENT)
    with pytest.raises(dns.exception.Timeout):
        ask(nameserver, "db.test", timeout=0.05)
    nameserver.fail(Fault.GARBAGE)
    with pytest.raises(dns.exception.FormError):
        ask(nameserver, "db.test")
    nameserver.fail(Fault.STRANGE)
    with pytest.raises(dns.query.BadResponse):
        ask(nameserver, "db.test")


def test_a_fault_may_be_of_one_name_and_kind_and_heals(nameserver: NameServer) -> None:
    nameserver.set("a.test", "127.0.0.2")
    nameserver.set("b.test", "127.0.0.2")
    nameserver.fail(Fault.SERVFAIL, name="a.test", kind="AAAA")
    assert ask(nameserver, "a.test", "AAAA").rcode() == dns.rcode.SERVFAIL
    assert ask(nameserver, "a.test").rcode() == dns.rcode.NOERROR
    assert ask(nameserver, "b.test", "AAAA").rcode() == dns.rcode.NOERROR
    nameserver.heal()
    assert ask(nameserver, "a.test", "AAAA").rcode() == dns.rcode.NOERROR


def test_it_counts_what_it_was_asked(nameserver: NameServer) -> None:
    nameserver.set("a.test", "127.0.0.2")
    ask(nameserver, "a.test")
    ask(nameserver, "a.test", "AAAA")
    ask(nameserver, "b.test")
    nameserver.wait_for_questions(3)
    assert (nameserver.count(), nameserver.count("a.test"), nameserver.count(kind="A")) == (3, 2, 2)
    nameserver.forget_questions()
    assert nameserver.count() == 0
    with pytest.raises(TimeoutError):
        nameserver.wait_for_questions(1, timeout=0.01)


def test_it_comes_back_on_its_port(nameserver: NameServer) -> None:
    nameserver.set("db.test", "127.0.0.2")
    before = nameserver.address
    nameserver.stop()
    with pytest.raises(dns.exception.Timeout):
        ask(nameserver, "db.test", timeout=0.05)
    nameserver.start()
    assert nameserver.address == before
    assert texts(ask(nameserver, "db.test")) == ["127.0.0.2"]
