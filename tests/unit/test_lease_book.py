"""The lease book, which threads read while another thread writes to it."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from hasql._leasing.book import LeaseBook
from hasql._leasing.lease import Lease
from hasql._routing.request import MASTER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TURNS = 20_000


@pytest.fixture(autouse=True)
def _many_switches() -> Iterator[None]:
    """Make the interpreter switch between threads very often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.000001)
    yield
    sys.setswitchinterval(before)


def test_a_lease_is_found_while_the_one_before_it_is_removed() -> None:
    # A driver's pool may lend a connection again before the call that released it has returned.
    book, connection = LeaseBook[object, object](), object()
    before, lease = lease_of(book), lease_of(book)
    book.enter(before, connection)
    before.returning = True
    book.enter(lease, connection)

    def remove() -> None:
        before.connection = connection
        book.remove(before)

    found = found_while(remove, lambda: book.find(connection))
    assert found == {lease}


def test_a_lease_is_found_while_it_is_terminated() -> None:
    books: list[LeaseBook[object, object]] = [LeaseBook()]
    connection = object()
    books[0].enter(lease_of(books[0]), connection)

    def terminate() -> None:
        lease = lease_of(book := LeaseBook[object, object]())
        book.enter(lease, connection)
        books[0] = book
        book.set_aside(lease)

    found = found_while(terminate, lambda: type(books[0].of(connection)))
    assert found == {Lease}


def lease_of(book: LeaseBook[Any, Any]) -> Lease[Any, Any]:
    return Lease(book, MASTER, 0.0, {})


def found_while(write: Callable[[], None], find: Callable[[], object]) -> set[object]:
    """Return all results that a thread finds while another thread writes many times."""
    found, ended = set[object](), threading.Event()

    def look() -> None:
        while not ended.is_set():
            try:
                found.add(find())
            except ValueError as error:
                found.add(str(error))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(_TURNS):
            write()
    finally:
        ended.set()
        thread.join()
    return found
