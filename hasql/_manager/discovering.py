"""Discovering: follows the source of hosts, which may fail, hang or lie without harm."""

import asyncio
import logging
from collections.abc import Callable
from random import Random

from hasql.cluster.host import HostSpec
from hasql.discovery import Discovered, Discovery

__all__ = ("Discovering",)

log = logging.getLogger("hasql")

#: Seconds until a source that has failed is asked again: at first, doubling, and at most.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
#: Seconds between two requests to look again while no master is known.
_REFRESH_DELAY = 1.0


class Discovering:
    """Takes over what one source of hosts proposes."""

    def __init__(
        self,
        source: Discovery,
        take_over: Callable[[tuple[HostSpec, ...]], None],
        hide: Callable[[str], str],
        chance: Random,
    ) -> None:
        self._source = source
        self._take_over = take_over
        self._hide = hide
        self._chance = chance
        #: What was logged last, so that a source that goes on failing is logged once.
        self._failure = ""
        self._pause = _FIRST_PAUSE
        #: Set while no master is known.
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Follow the source until it ends."""
        while True:
            try:
                async for hosts in self._source.watch():
                    self._take(hosts)
            except Exception as error:  # noqa: BLE001  # a source of the application's own
                self._failed(f"{type(error).__name__}: {error}")
            else:
                return
            await asyncio.sleep(self._pause * self._chance.uniform(0.75, 1.25))
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _take(self, hosts: object) -> None:
        """Take over an answer, unless it is none."""
        answer = tuple(hosts) if isinstance(hosts, tuple | list) else ()
        if not answer or not all(isinstance(host, Discovered) for host in answer):
            self._failed(f"it answered {hosts!r}, which is no hosts")
            return
        self._failure, self._pause = "", _FIRST_PAUSE
        self._take_over(tuple(dict.fromkeys(found.host for found in answer)))

    def _failed(self, why: str) -> None:
        if why != self._failure:
            self._failure = why
            name = type(self._source).__name__
            log.warning("%s has failed; the hosts stay as they are: %s", name, self._hide(why))

    def note_masters(self, known: bool, /) -> None:  # noqa: FBT001  # the one fact there is
        """Have the source look again, and again, for as long as no master is known."""
        if known:
            self.cancel()
        elif self._timer is None:
            self._refresh()

    def _refresh(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_REFRESH_DELAY, self._refresh)
        try:
            self._source.refresh()
        except Exception as error:  # noqa: BLE001  # as above
            self._failed(f"{type(error).__name__}: {error}")

    def cancel(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
