"""A waiter for threads ends once, for the waiting thread too, whatever is interrupted."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import CancelledError, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from hasql.driver import thread_waiter
from hasql.driver.thread_waiter import ThreadWaiter
from tests.unit.test_thread_manager import LONG

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def interrupted_before(instruction: int, work: Callable[[], object]) -> bool:
    """Interrupt some work before the instruction of `thread_waiter` with this number.

    Return whether the work was interrupted.
    """
    left = instruction

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != thread_waiter.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if not left:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # noqa: SLF001  # Python 3.12 ignores it when set later
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_it_ends_once() -> None:
    waiter: ThreadWaiter[int] = ThreadWaiter()
    assert not waiter.done()
    with pytest.raises(InvalidStateError):
        waiter.result()
    with pytest.raises(InvalidStateError):
        waiter.exception()
    waiter.set_result(1)
    with pytest.raises(InvalidStateError):
        waiter.set_result(2)
    with pytest.raises(InvalidStateError):
        waiter.set_exception(ValueError())
    assert not waiter.cancel()
    assert waiter.done()
    assert not waiter.cancelled()
    assert waiter.ended_within(0)
    assert (waiter.exception(), waiter.result()) == (None, 1)


def test_it_raises_the_error_that_it_has_ended_with() -> None:
    waiter: ThreadWaiter[None] = ThreadWaiter()
    waiter.set_exception(KeyError("a"))
    assert isinstance(waiter.exception(), KeyError)
    with pytest.raises(KeyError, match="a"):
        waiter.result()


def test_what_is_given_up_is_given_up_for_good() -> None:
    waiter: ThreadWaiter[int] = ThreadWaiter()
    assert waiter.cancel()
    assert waiter.cancel()
    assert waiter.cancelled()
    with pytest.raises(InvalidStateError):
        waiter.set_result(1)
    with pytest.raises(CancelledError):
        waiter.result()


def test_a_wait_ends_after_its_limit() -> None:
    waiter: ThreadWaiter[None] = ThreadWaiter()
    began = monotonic()
    assert not waiter.ended_within(0.05)
    assert not waiter.ended_within(-1)
    assert 0.05 <= monotonic() - began < LONG


def test_of_several_threads_that_end_it_one_does() -> None:
    with ThreadPoolExecutor(4) as threads:
        for _ in range(300):
            waiter: ThreadWaiter[int] = ThreadWaiter()
            together = threading.Barrier(4)

            def end(number: int) -> bool:
                together.wait()  # noqa: B023  # same iteration
                if number == 3:
                    return waiter.cancel()  # noqa: B023
                with suppress(InvalidStateError):
                    waiter.set_result(number)  # noqa: B023
                    return True
                return False

            ended = list(threads.map(end, range(4)))
            assert ended.count(True) == 1
            assert waiter.cancelled() if ended[3] else waiter.result() == ended.index(True)


def test_who_waits_is_woken_wherever_who_ends_it_is_interrupted() -> None:
    with ThreadPoolExecutor(1) as threads:
        for instruction in count(1):
            waiter: ThreadWaiter[int] = ThreadWaiter()
            waiting = threads.submit(waiter.ended_within, LONG)
            interrupted = interrupted_before(instruction, lambda: waiter.set_result(1))  # noqa: B023
            if not waiter.done():
                waiter.set_result(1)
            began = monotonic()
            assert waiting.result(LONG * 2), instruction
            assert monotonic() - began < LONG / 2, instruction
            assert waiter.result() == 1
            if not interrupted:
                break
        assert instruction > 20


def test_who_ends_it_is_not_held_up_wherever_who_waits_is_interrupted() -> None:
    with ThreadPoolExecutor(1) as threads:
        for instruction in count(1):
            waiter: ThreadWaiter[int] = ThreadWaiter()
            interrupted = interrupted_before(instruction, lambda: waiter.ended_within(0.001))  # noqa: B023
            threads.submit(waiter.set_result, 1).result(LONG)
            assert waiter.ended_within(0)
            if not interrupted:
                break
        assert instruction > 5
