"""What a request gives back is no longer its own: by itself, by a call, or by SQLAlchemy's close."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING

from hasql.contrib.flask.background import BackgroundReturns

if TYPE_CHECKING:
    from collections.abc import Iterator

MORE_THAN_THERE_IS = 1 << 50
"""Bytes of a stack that no thread can have, as at the limit of threads of a process."""


@contextmanager
def no_more_threads() -> Iterator[None]:
    """Have each start of a thread fail as the operating system makes it fail."""
    before = threading.stack_size(MORE_THAN_THERE_IS)
    try:
        yield
    finally:
        threading.stack_size(before)


def test_at_the_limit_of_threads_what_gives_back_is_done_once() -> None:
    """The executor has queued it by then, for a thread that is busy."""
    returns = BackgroundReturns()
    begun, go_on = Event(), Event()
    done: list[str] = []

    def occupy() -> None:
        begun.set()
        assert go_on.wait(10)

    returns.submit(occupy)
    assert begun.wait(10)
    with no_more_threads():
        returns.submit(lambda: done.append(threading.current_thread().name))
    assert done == [threading.current_thread().name]
    go_on.set()
    returns.stop()
    assert len(done) == 1
