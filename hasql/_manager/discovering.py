"""Discovering: follows the source of hosts, which may fail, hang or lie without doing harm."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from reprlib import Repr
from typing import TYPE_CHECKING

from hasql._manager.guarded import soon
from hasql._manager.notifier import Notifier
from hasql._manager.options import Options
from hasql.cluster.discovered import Discovered
from hasql.diagnostics import about
from hasql.discovery.contract import Ask, Discovery, asks_by_sql
from hasql.events import DiscoveryFailed, DiscoveryRecovered
from hasql.metrics import DiscoveryMetrics

if TYPE_CHECKING:
    from hasql.cluster.host import HostSpec

__all__ = ("Discovering",)

log = logging.getLogger("hasql")

#: Seconds until a failed source is asked again: the first pause, which doubles, and the longest.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
#: Seconds between two requests to look again while no master is known.
_REFRESH_DELAY = 1.0
#: Least seconds between two answers: a source that never waits must not starve the loop.
_REST = 0.01
#: An answer with more hosts than this is taken for a mistake: each host costs a connection, a task,
#: and some time whenever another host changes.
_MOST_HOSTS = 256
#: How many characters of an error are kept: it may quote all that a server has answered.
_LONGEST_TEXT = 2000

_short = Repr()
_short.maxstring = _short.maxother = 200


class Discovering:
    """Takes over the hosts that one source proposes, and knows how the source is doing."""

    def __init__(self, source: Discovery, ask: Ask, options: Options, notifier: Notifier) -> None:
        self._source = source
        self._ask = ask
        self._hide = options.hide
        self._clock = options.clock
        self._chance = options.chance
        self._notifier = notifier
        #: Called with the hosts of each good answer.
        self.on_answer: Callable[[tuple[Discovered, ...]], None] = _ignore
        #: The last good answer, () before the first, and when it came.
        self._hosts: tuple[Discovered, ...] = ()
        self._answered_at: float | None = None
        #: Why the last attempt has failed; None while all is well.
        self._failure: str | None = None
        self._ended = False
        self._pause = _FIRST_PAUSE
        #: Exists while a failed source pauses; a request to look again ends it.
        self._pausing: asyncio.Future[None] | None = None
        #: A timer while no master is known, and when the source was last asked to look again.
        self._timer: asyncio.TimerHandle | None = None
        self._refreshed_at = float("-inf")

    async def run(self) -> None:
        """Follow the source until it ends."""
        while True:
            try:
                await self._follow(self._watch())
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                self._failed("CancelledError: something that it was waiting for was cancelled")
            except Exception as error:  # noqa: BLE001  # a source of the application's own
                self._failed(_text_of(error))
            else:
                self._ended = True
                return
            await self._wait()
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _watch(self) -> AsyncIterator[object]:
        asks = asks_by_sql(self._source)
        return self._source.watch(self._ask) if asks else self._source.watch()

    async def _follow(self, answers: AsyncIterator[object]) -> None:
        answered_at = float("-inf")
        try:
            async for answer in answers:
                if self._clock() - answered_at < _REST:
                    await asyncio.sleep(_REST)
                answered_at = self._clock()
                self._take(answer)
        finally:
            if isinstance(answers, AsyncGenerator):
                await answers.aclose()

    async def _wait(self) -> None:
        """Pause before a failed source is asked again; a request to look again ends the pause."""
        self._pausing = asyncio.get_running_loop().create_future()
        seconds = self._pause * self._chance.uniform(0.75, 1.25)
        try:
            await asyncio.wait([self._pausing], timeout=seconds)
        finally:
            self._pausing = None

    def _take(self, answer: object) -> None:
        """Take over an answer, if it is a valid one."""
        hosts = tuple(answer) if isinstance(answer, tuple | list) else ()
        if not hosts or not all(isinstance(host, Discovered) for host in hosts):
            self._failed(f"it answered {_short.repr(answer)}, not a tuple of Discovered")
            return
        found: dict[HostSpec, Discovered] = {}
        for each in hosts:
            found.setdefault(each.host, each)
        hosts = tuple(found.values())
        if len(hosts) > _MOST_HOSTS:
            self._failed(f"it answered {len(hosts)} hosts, more than the {_MOST_HOSTS} allowed")
            return
        if self._failure is not None:
            self._notifier.tell(DiscoveryRecovered(self.name))
        self._failure, self._pause = None, _FIRST_PAUSE
        self._answered_at = self._clock()
        if hosts != self._hosts:
            self._hosts = hosts
            self.on_answer(hosts)

    def _failed(self, why: str) -> None:
        """Take note of a failure, and report it if it is the first since a good answer."""
        first, self._failure = self._failure is None, self._hide(why)
        if first:
            self._notifier.tell(DiscoveryFailed(self.name, self._failure))
        else:
            extra = about("discovery_failed")
            log.debug("%s is still failing: %s", self.name, self._failure, extra=extra)

    # While no master is known

    def note_masters(self, known: bool, /) -> None:  # noqa: FBT001  # the one fact there is
        """Ask the source to look again, and again, for as long as no master is known."""
        if known:
            self.cancel()
        elif self._timer is None:
            self._refresh()

    def _refresh(self) -> None:
        """Ask for a new answer, but at most once a second, however often the master is lost."""
        wait = self._refreshed_at + _REFRESH_DELAY - self._clock()
        if wait <= 0:
            self._refreshed_at, wait = self._clock(), _REFRESH_DELAY
            soon(self._look_again)
        self._timer = asyncio.get_running_loop().call_later(wait, self._refresh)

    def _look_again(self) -> None:
        if self._pausing is not None:
            if not self._pausing.done():
                self._pausing.set_result(None)
            return
        try:
            self._source.refresh()
        except Exception as error:  # noqa: BLE001  # as above
            self._failed(_text_of(error))

    def cancel(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # How it is doing

    @property
    def name(self) -> str:
        """The source's name for logs and errors, even if its `str()` raises."""
        try:
            return self._hide(str(self._source))
        except Exception:  # noqa: BLE001  # as above
            return type(self._source).__name__

    def measure(self) -> DiscoveryMetrics:
        """Take the snapshot that `Metrics.discovery` shows."""
        since = None if self._answered_at is None else max(0.0, self._clock() - self._answered_at)
        return DiscoveryMetrics(
            source=self.name,
            hosts=tuple(each.host for each in self._hosts),
            last_success=since,
            last_error=self._failure,
        )

    def describe(self) -> str | None:
        """Say in one line what is wrong with the source, for error messages; None: nothing."""
        if self._failure is not None:
            words = "is failing" if self._hosts else "has not answered yet"
            return f"{self.name} {words}, last error: {self._failure}"
        if self._hosts:
            return None
        return f"{self.name} has {'ended without an answer' if self._ended else 'not answered yet'}"


def _text_of(error: Exception) -> str:
    """Return the text of a source's error, cut to a limit, even if its `str()` raises."""
    try:
        text = str(error)
    except Exception as another:  # noqa: BLE001  # as above
        text = f"it has no text ({type(another).__name__})"
    return f"{type(error).__name__}: {text[:_LONGEST_TEXT]}"


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _ignore(_hosts: object, /) -> None:
    pass  # until the lifetime puts its own in place
