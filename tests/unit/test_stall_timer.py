"""How long hasql waits for a silent host, in a loop that runs and in one that is blocked."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from hasql._probing.stall_timer import StallTimer


async def test_it_ends_what_waits_once_and_has_ended_then() -> None:
    loop = asyncio.get_running_loop()
    over, calls = loop.create_future(), []
    began = loop.time()
    with StallTimer(loop, time.monotonic, 0.05) as limit:
        assert not limit.ended
        with limit.ending(lambda: calls.append(1)), limit.ending(lambda: over.set_result(1)):
            await over
        assert limit.ended
        assert loop.time() - began > 0.03  # the timer counts whole steps, and uvloop milliseconds
        with limit.ending(lambda: calls.append(2)):  # too late: it is called at once
            assert calls == [1, 2]


async def test_what_ends_in_time_is_not_ended() -> None:
    loop, calls = asyncio.get_running_loop(), []
    with StallTimer(loop, time.monotonic, 0.05) as limit:
        with limit.ending(lambda: calls.append("answered")):
            pass
        other = loop.create_future()
        with limit.ending(lambda: other.set_result(None)):
            await other
    assert calls == []
    with StallTimer(loop, time.monotonic, 0.02) as cancelled:
        pass
    await asyncio.sleep(0.06)
    assert not cancelled.ended


@pytest.mark.parametrize("seconds", [0.02, 0.1], ids=["in the last step", "before it"])
async def test_an_answer_that_came_while_the_loop_was_blocked_is_read_first(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=near)
    reading = loop.create_task(reader.readline())
    with StallTimer(loop, time.monotonic, seconds) as limit, limit.ending(reading.cancel):
        await asyncio.sleep(0)
        far.send(b"answer\n")
        time.sleep(0.3)  # an application that blocks its loop
        assert await reading == b"answer\n"
    writer.close()
    far.close()


async def test_what_takes_several_turns_has_its_time_after_the_loop_was_blocked() -> None:
    with StallTimer(asyncio.get_running_loop(), time.monotonic, 0.5) as limit:
        time.sleep(0.6)
        await asyncio.sleep(0.2)
        assert not limit.ended


async def test_a_loop_that_is_always_late_does_not_wait_for_ever() -> None:
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def block() -> None:
        time.sleep(0.03)
        if not over.done():
            loop.call_soon(block)

    with (
        StallTimer(loop, time.monotonic, 0.04) as limit,
        limit.ending(lambda: over.set_result(None)),
    ):
        block()
        await asyncio.wait_for(over, 10)
    assert limit.ended
