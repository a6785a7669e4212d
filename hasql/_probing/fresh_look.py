"""The fresh look: whether a host's name still leads to the server that its monitor is connected to.

A service name or a proxy may lead new connections to another server while the old ones live on.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Reading, Role
from hasql.diagnostics import about
from hasql.driver import Session
from hasql.driver.kept_errors import without_frames

__all__ = ("Found", "FreshLooks", "is_another_server", "is_standby_of", "is_to_be_followed")

log = logging.getLogger("hasql")

#: Seconds from one look to the next: in general, and at first and at most while another server is
#: looked for: the host is kept out of routing, which may be for one that its name has left, or
#: there is no master, and the name is known to lead to several.
_DELAY = 30.0
_FIRST_QUICK = 0.5
_SLOWEST_QUICK = 10.0
#: Within how many seconds the first look at a master that has been replaced is had, at random: all
#: clients of the cluster exclude it at one moment, and a login costs a server milliseconds.
_SPREAD = 10.0
#: The same after looks that were asked for and have found nothing new.
_FIRST_QUIET = 0.5
#: The same while there is no master: nothing else tells of one that the name has been moved to.
_NO_MASTER = 10.0
#: Seconds in which a look has to end that is cancelled.
_LAST_WORDS = 0.5
#: Looks in a row that show where a name leads that may lead to several servers in turn.
_LOOKS_TO_BE_SURE = 3


@dataclass(frozen=True, slots=True)
class Found:
    """Another server of the same name."""

    session: Session
    reading: Reading


#: Called by its task, or it would never be awaited if that is cancelled before it begins.
_Look: TypeAlias = Callable[[], Coroutine[Any, Any, Found | None]]


class FreshLooks:
    """The looks at one host: when the next is due, and the one under way.

    Any new reserved connection is a look as well.
    """

    def __init__(
        self,
        host: HostSpec,
        hide: Callable[[str], str],
        clock: Callable[[], float],
        chance: Random,
    ) -> None:
        self._host = host
        self._hide = hide
        self._clock = clock
        self._chance = chance
        #: The look under way, or done and not taken: another server, or None.
        self._look: asyncio.Task[Found | None] | None = None
        #: How many looks in a row have found another server than that of the monitor.
        self.diverged = 0
        self._looked_at = self._clock()
        self._asked_for = False
        self._quiet = _FIRST_QUIET
        self._quick_delay = _FIRST_QUICK
        self._jitter = self._chance.uniform(0.75, 1.25)

    def ask(self) -> None:
        """Have a look soon, as a lease on this host was broken; but seldom if that goes on."""
        self._asked_for = True

    def expect_another(self) -> None:
        """Have a look soon, as a new reserved connection leads to a standby, not to the master.

        The master may have become that standby, or the name have moved; then one look shows that
        there is no other. Or the name leads to both, and only a look finds the master again.
        """
        self.diverged = max(self.diverged, 1)
        self._quick_delay = _FIRST_QUICK

    def spread(self) -> None:
        """Have the next quick look at some time within ten seconds, unless a lease asks for one.

        For a host that a master known by another name has replaced: nobody waits for it.
        """
        self._looked_at = self._clock()
        self._quick_delay = _SPREAD
        self._jitter = self._chance.uniform(0.05, 1.0)

    def due(self, quick: bool, no_master: bool) -> bool:  # noqa: FBT001  # what is so now
        """Tell whether to begin one now; `quick` while another server is looked for."""
        if self._look is not None:
            return False
        quick = quick or self.diverged > 0
        if not quick:
            self._quick_delay = _FIRST_QUICK
        delay = _DELAY
        if quick:
            delay = self._quick_delay
        elif no_master:
            delay = _NO_MASTER
        if self._asked_for:
            delay = min(delay, self._quiet)
        return self._clock() - self._looked_at > delay * self._jitter

    def looked(self) -> None:
        """Take note of a look, or of a new reserved connection."""
        self._looked_at = self._clock()
        self._quiet = min(2 * self._quiet, _DELAY) if self._asked_for else _FIRST_QUIET
        self._asked_for = False
        self._quick_delay = min(2 * self._quick_delay, _SLOWEST_QUICK)
        self._jitter = self._chance.uniform(0.75, 1.25)

    def begin(self, look: _Look, on_found: Callable[[], None]) -> None:
        """Begin a look, which goes on beside the probes; `on_found` is called when `take` is due.

        One that has found nothing costs no probe besides: `take` is in time before the next.
        """
        self.looked()
        self._look = asyncio.get_running_loop().create_task(_kept(look))
        self._look.add_done_callback(lambda look: on_found() if _found_by(look) else None)

    def take(self) -> Found | None:
        """Return the other server that a look has found, once."""
        if self._look is None or not self._look.done():
            return None
        look, self._look = self._look, None
        if look.cancelled():
            return None
        if error := look.exception():
            # What keeps the host from taking new connections, its pool meets as well.
            told, extra = self._hide(repr(error)), about("fresh_look_failed", host=self._host)
            log.debug("%s: a fresh look has failed: %s", self._host, told, extra=extra)
            return None
        found = look.result()
        self.diverged = self.diverged + 1 if found is not None else 0
        if found is not None:
            self._quiet = _FIRST_QUIET
        return found

    def cancel(self) -> None:
        """End the look under way, and what it may have found."""
        if self._look is not None:
            self._look.add_done_callback(_kill_found)
            self._look.cancel()

    async def end(self) -> None:
        """End the look under way, and wait for that, but not for a driver that goes on."""
        self.cancel()
        if self._look is not None:
            await asyncio.wait([self._look], timeout=_LAST_WORDS)


async def _kept(look: _Look) -> Found | None:
    """Have a look; the task keeps what that raises, which must not keep a login in turn."""
    try:
        return await look()
    except BaseException as error:  # noqa: BLE001  # it is raised again
        raise without_frames(error)  # noqa: B904  # it is the same


def _found_by(look: "asyncio.Task[Found | None]") -> Found | None:
    return None if look.cancelled() or look.exception() else look.result()


def _kill_found(look: "asyncio.Task[Found | None]") -> None:
    found = _found_by(look)
    if found is not None:
        found.session.kill()


def is_another_server(known: Reading, fresh: Reading) -> bool:
    """Tell whether two readings are of two servers, by what both tell."""
    for one, other in ((known.system_id, fresh.system_id), (known.started_at, fresh.started_at)):
        if one is not None and other is not None and one != other:
            return True
    return known.started_at is None and known.role is not fresh.role


def is_to_be_followed(known: Reading, fresh: Reading, *, no_master: bool, diverged: int) -> bool:
    """Tell whether the monitor of a host that serves should go on with another server of its name.

    A name may lead to a master and its standbys in turn. A master that answers is left for one that
    has replaced it. A replica is left for a master where there is none, or where so many looks in a
    row have found no replica that the name seems to lead to none.
    """
    if fresh.system_id != known.system_id or known.role is fresh.role is Role.REPLICA:
        return True  # an upgraded cluster; or the next of several replicas
    if fresh.role is Role.REPLICA:
        return False
    if known.role is Role.REPLICA:
        return no_master or diverged >= _LOOKS_TO_BE_SURE
    return _is_newer(fresh, known)


def _is_newer(fresh: Reading, known: Reading) -> bool:
    if fresh.timeline is None or known.timeline is None:
        return True  # it does not tell: the name says which one is the master
    return fresh.timeline > known.timeline


def is_standby_of(last: Reading, fresh: Reading) -> bool:
    """Tell whether a name that led to a master leads to a standby, and may lead to both."""
    led_to_master = last.role is Role.MASTER and fresh.role is Role.REPLICA
    return led_to_master and is_another_server(last, fresh)
