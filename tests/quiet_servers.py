"""Repeats tests that count connects through a proxy, if a busy machine has disturbed them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from testbed.proxy import Proxy

__all__ = ("play_to_one_that_answers",)


async def play_to_one_that_answers(
    behind_proxy: Callable[[], AbstractAsyncContextManager[tuple[Any, Proxy]]],
    play: Callable[[Any, Proxy], Awaitable[None]],
) -> None:
    """Play a scene to a ready manager of one host; repeat it if it failed and the host went quiet.

    hasql gives up connects to a server that has not answered for a tenth of a second, which happens
    on a busy machine. The test then cannot say how many connects there should be.
    """
    for _ in range(5):
        async with behind_proxy() as (manager, proxy):
            began = time.monotonic()
            try:
                await play(manager, proxy)
            except (AssertionError, TimeoutError):
                if manager.metrics().nodes[0].unchanged_for > time.monotonic() - began:
                    raise
            else:
                return
    raise AssertionError("the server has gone quiet each time")
