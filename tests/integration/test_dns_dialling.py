"""Which of a name's addresses is dialled, on real sockets."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from hasql.dns.dialling import dial, reachable_first, reachable_first_async
from testbed.black_hole import black_hole
from testbed.pace import fastest

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD, OTHER, REFUSING, SILENT = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"


@pytest.fixture
def port() -> Iterator[int]:
    """A port at which two addresses listen, one refuses and one is silent."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((GOOD, 0)))
        port: int = listener.getsockname()[1]
        stack.enter_context(socket.create_server((OTHER, port)))
        stack.enter_context(black_hole(SILENT, port))
        yield port


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def dialled(addresses: list[str], port: int, seconds: float | None = 5.0) -> str:
    sock, address = dial(addresses, port, seconds=seconds)
    with sock:
        assert sock.getpeername() == (address, port)
        return address


def test_the_first_that_answers_is_taken(port: int) -> None:
    assert dialled([GOOD, OTHER], port) == GOOD
    assert dialled([OTHER, GOOD], port) == OTHER


def test_one_that_refuses_costs_no_time(port: int) -> None:
    def dial_them() -> None:
        assert dialled([REFUSING, "127.0.0.6", GOOD], port) == GOOD

    assert fastest(dial_them) < 0.09


def test_one_that_is_silent_costs_a_moment(port: int) -> None:
    with within(1):
        assert dialled([SILENT, GOOD], port) == GOOD


def test_an_address_of_a_family_that_is_not_here_is_passed_over(port: int) -> None:
    assert dialled(["2001:db8::1", GOOD], port) == GOOD


def test_time_is_bounded_where_nobody_answers(port: int) -> None:
    with within(1.5), pytest.raises(TimeoutError, match=r"0\.3 s"):
        dial([SILENT, SILENT], port, seconds=0.3)


def test_the_reason_is_that_of_the_last_that_failed(port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        dial([REFUSING, "127.0.0.6"], port, seconds=None)


def test_a_socket_that_is_dropped_is_closed_in_silence(port: int) -> None:
    sock, _ = dial([GOOD], port, seconds=None)
    number = sock.fileno()
    del sock  # a ResourceWarning would fail the test
    with pytest.raises(OSError, match="Bad file descriptor"):
        socket.socket(fileno=number)


async def test_drivers_that_dial_by_themselves_get_the_one_that_answers_first(port: int) -> None:
    assert reachable_first([REFUSING, SILENT, GOOD], port) == (GOOD, REFUSING, SILENT)
    found = await reachable_first_async([REFUSING, SILENT, GOOD], port)
    assert found == (GOOD, REFUSING, SILENT)


async def test_where_none_answers_the_order_stays(port: int) -> None:
    with within(4):
        assert reachable_first([SILENT, REFUSING], port) == (SILENT, REFUSING)
    with within(4):
        assert await reachable_first_async([SILENT, REFUSING], port) == (SILENT, REFUSING)


async def test_an_address_that_is_alone_is_left_to_the_driver(port: int) -> None:
    def sort_it() -> None:
        assert reachable_first([SILENT], port) == (SILENT,)

    assert fastest(sort_it) < 0.09
    took = []
    for _ in range(5):
        began = time.monotonic()
        assert await reachable_first_async([SILENT], port) == (SILENT,)
        took.append(time.monotonic() - began)
    assert min(took) < 0.09
