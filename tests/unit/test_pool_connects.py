"""The connects of a pool for threads: a waiting thread is told, whatever is interrupted."""

from __future__ import annotations

import concurrent.futures
import threading
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING

from hasql._adapters.pool_connects import PoolConnects, PoolFunctions
from hasql.driver.time_left import TimeLeft
from tests.unit.test_thread_faults import HASQL, interrupted_at
from tests.unit.test_thread_manager import LONG, until

if TYPE_CHECKING:
    from hasql.driver.address_race import ThreadedConnect


def test_who_waits_looks_again_wherever_who_gives_back_is_interrupted() -> None:
    within = (HASQL, threading.__file__, concurrent.futures.__path__[0])
    ends = threading.Event()

    def connect(_: ThreadedConnect) -> None:
        ends.wait(LONG * 2)

    try:
        for point in count(2):  # point 1 is before `note_arrival` begins
            functions = PoolFunctions(connect, lambda _: None, lambda *_: False, lambda _: None)
            connects: PoolConnects[None] = PoolConnects(functions)
            told: list[bool] = []
            waits = threading.Event()

            def wait() -> None:
                time_left = TimeLeft(monotonic() + LONG, monotonic, 0.0, waits.set)  # noqa: B023
                connects.wait(time_left, connects.ticket())  # noqa: B023
                told.append(True)  # noqa: B023

            other = threading.Thread(target=wait, daemon=True)
            other.start()
            until(waits.is_set)
            interrupted = interrupted_at(point, connects.note_arrival, within)
            other.join(LONG / 2)
            assert told, point
            if not interrupted:
                break
        assert point > 5
    finally:
        ends.set()
