"""Follows the names of a manager's hosts: where each leads now."""

import asyncio
import logging
from collections.abc import Callable
from functools import cached_property, partial
from typing import Protocol

from hasql._probing.options import ProbingOptions
from hasql.cluster.host import HostSpec, is_address
from hasql.cluster.names import NameHistory
from hasql.diagnostics import about
from hasql.dns import Answer
from hasql.driver import Endpoint

__all__ = ("FollowedNames", "NameSource")

log = logging.getLogger("hasql")

#: Seconds from one look-up of a name to the next, at least; exactly that while its host is missed.
_SOONEST = 1.0
#: The most seconds until a name that could not be resolved is looked up again; they double.
_SLOWEST_RETRY = 30.0


class NameSource(Protocol):
    """A source that tells where names lead."""

    async def lookup_async(self, host: str) -> Answer:
        """Return the addresses of a name, and the seconds for which they may be kept.

        Raises OSError.
        """

    def expire(self, host: str) -> None:
        """Take what is known of a name for expired, so that it is looked up the next time."""


class FollowedNames:
    """Looks each host's name up again when its TTL ends, and passes the answers on.

    The last answer stays in force for as long as there is no other.

    Args:
        make_source: Makes the source that looks names up.
        options: The manager's options.
        on_answer: Is called after each answer, with the host and with a function that makes new
            connects lead to where the name leads now: see `Endpoint.note_addresses`.
    """

    def __init__(
        self,
        make_source: Callable[[], NameSource],
        options: ProbingOptions,
        on_answer: Callable[[HostSpec, Callable[[], bool]], object],
    ) -> None:
        self._make_source = make_source
        self._hide = options.hide
        self._clock = options.clock
        self._on_answer = on_answer
        self._tasks: dict[HostSpec, asyncio.Task[None]] = {}
        #: The hosts that do not answer, and whether there is no master.
        self._silent: set[HostSpec] = set()
        self._no_master = False
        #: By host: the future that ends the wait for the next look-up.
        self._waits: dict[HostSpec, asyncio.Future[None]] = {}

    # Which names are followed

    def begin(self, endpoint: Endpoint) -> None:
        """Follow the name of a host, unless it is an address or followed already."""
        host = endpoint.host
        if host not in self._tasks and is_name(host):
            endpoint.begin_first_lookup()
            follow = self._follow(endpoint, self._source)
            self._tasks[host] = asyncio.get_running_loop().create_task(follow)

    @cached_property
    def _source(self) -> NameSource:
        return self._make_source()

    def stop(self, host: HostSpec) -> list[asyncio.Task[None]]:
        """Stop following a name; return the task that has to be ended for that, if any."""
        self._silent.discard(host)
        task = self._tasks.pop(host, None)
        return [] if task is None else [task]

    def stop_all(self) -> list[asyncio.Task[None]]:
        """Stop following all names; return the tasks that have to be ended for that."""
        tasks = [*self._tasks.values()]
        self._tasks.clear()
        return tasks

    # When they are looked up

    def note_host(self, host: HostSpec, *, answers: bool) -> None:
        """Take note whether a host answers: a host that does not may have moved."""
        if answers:
            self._silent.discard(host)
        elif host not in self._silent:
            self._silent.add(host)
            self._look_up_now(host)

    def note_masters(self, known: bool, /) -> None:  # noqa: FBT001  # the one fact there is
        """Take note whether a master is known: if not, it may be at a new address."""
        self._no_master = not known
        if not known:
            for host in self._tasks:
                self._look_up_now(host)

    def _look_up_now(self, host: HostSpec) -> None:
        if (wait := self._waits.get(host)) is not None and not wait.done():
            wait.set_result(None)

    def _is_urgent(self, host: HostSpec) -> bool:
        return self._no_master or host in self._silent

    async def _follow(self, endpoint: Endpoint, source: NameSource) -> None:
        """Look one name up, again and again."""
        host, history, failure, retry = endpoint.host, NameHistory(), "", _SOONEST

        def has_left(address: str) -> bool:
            return history.has_left(address, self._clock())

        while True:
            began = self._clock()
            if self._is_urgent(host):
                source.expire(host.host)
            try:
                answer = await source.lookup_async(host.host)
            except Exception as error:  # noqa: BLE001  # whatever it was, the next try may work
                delay, retry = retry, min(2 * retry, _SLOWEST_RETRY)
                if str(error) != failure:
                    failure = str(error)
                    told, extra = self._hide(failure), about("name_failed", host=host)
                    log.warning("%s: its name cannot be followed: %s", host, told, extra=extra)
            else:
                failure, retry, delay = "", _SOONEST, max(_SOONEST, answer.ttl)
                before = history.addresses
                history.answered(answer.addresses, self._clock())
                if before and {*before} != {*history.addresses}:
                    addresses, extra = ", ".join(history.addresses), about("name_moved", host=host)
                    log.info("%s leads to %s now", host, addresses, extra=extra)
                self._on_answer(host, partial(endpoint.note_addresses, history.addresses, has_left))
            endpoint.end_first_lookup()
            await self._wait(host, began, delay)

    async def _wait(self, host: HostSpec, began: float, delay: float) -> None:
        """Wait until a name has to be looked up again, or until its host is missed."""
        if not self._is_urgent(host):
            wait = self._waits[host] = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(delay):
                    await wait
            except TimeoutError:
                return
            finally:
                if self._waits.get(host) is wait:  # else the host has gone and come back since
                    del self._waits[host]
        # The host is missed, but no name is looked up more often than this.
        await asyncio.sleep(max(0.0, began + _SOONEST - self._clock()))


def is_name(host: HostSpec) -> bool:
    """Tell whether a host is given by a name that may lead elsewhere one day."""
    return not (host.address or host.host.startswith("/") or is_address(host.host))
