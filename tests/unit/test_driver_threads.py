"""Work that runs in threads of its own, also where no thread can be started."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from hasql.driver.threads import end_in_thread, in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def no_more_threads() -> Iterator[None]:
    """Make the system refuse to start threads, by asking for stacks that are too large."""
    before = threading.stack_size(1 << 46)
    try:
        yield
    finally:
        threading.stack_size(before)


def test_what_ends_something_is_done_in_a_thread() -> None:
    assert end_in_thread(threading.get_ident, "test").result(10) != threading.get_ident()


def test_where_no_thread_starts_what_ends_something_is_done_at_once() -> None:
    with no_more_threads():
        with pytest.raises(RuntimeError, match="thread"):
            in_thread(threading.get_ident, "test")
        done = end_in_thread(threading.get_ident, "test")
        failed = end_in_thread(lambda: 1 / 0, "test")
    assert done.result(0) == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        failed.result(0)
