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

#: Seconds from one look to the next: in general; and at first and at most while another server is
#: looked for. One is looked for while the host is kept out of routing, perhaps because of a server
#: that its name has left; and while there is no master and the name may lead to several servers.
_DELAY = 30.0
_FIRST_QUICK = 0.5
_SLOWEST_QUICK = 10.0
#: The first look at a master that has been replaced begins at random within so many seconds: all
#: clients of the cluster exclude it at the same moment, and a login costs a server milliseconds.
_SPREAD = 10.0
#: Seconds from one look to the next that is asked for; they double while nothing new is found.
_FIRST_QUIET = 0.5
#: Seconds from one look to the next while there is no master: nothing else shows that the name has
#: been moved to one.
_NO_MASTER = 10.0
#: Seconds in which a look that is cancelled has to end.
_END_TIMEOUT = 0.5
#: So many looks in a row show where a name leads, even if it may lead to several servers in turn.
_LOOKS_TO_BE_SURE = 3


@dataclass(frozen=True, slots=True)
class Found:
    """Another server to which the same name leads."""

    session: Session
    reading: Reading


#: The look's task calls this function. A coroutine that was made before would never be awaited if
#: the task is cancelled before it begins.
_Look: TypeAlias = Callable[[], Coroutine[Any, Any, Found | None]]


class FreshLooks:
    """The looks at one host: when the next is due, and the one under way.

    Any new reserved connection counts as a look, too.
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
        """Ask for a look soon, after a broken lease, say; looks get rarer if that goes on."""
        self._asked_for = True

    def expect_another(self) -> None:
        """Have a look soon: a new reserved connection leads to a standby, not to the master.

        The master may have become that standby, or the name may have moved. Then one look shows
        that there is no other server. Or the name leads to both servers, and only a look finds the
        master again.
        """
        self.diverged = max(self.diverged, 1)
        self._quick_delay = _FIRST_QUICK

    def spread(self) -> None:
        """Have the next quick look at a random time within ten seconds, unless one is asked for.

        This is for a host that was replaced by a master with another name: no acquire waits for it.
        """
        self._looked_at = self._clock()
        self._quick_delay = _SPREAD
        self._jitter = self._chance.uniform(0.05, 1.0)

    def due(self, quick: bool, no_master: bool) -> bool:  # noqa: FBT001  # what is so now
        """Tell whether to begin a look now; `quick`: whether another server is looked for."""
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
        """Begin a look, which goes on beside the probes; `on_found` is called if it finds a server.

        `take` should be called then. A look that finds nothing causes no extra probe: `take` may
        wait until before the next one.
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
            # The host's pool meets whatever keeps the host from taking new connections, too.
            told, extra = self._hide(repr(error)), about("fresh_look_failed", host=self._host)
            log.debug("%s: a probe on a fresh connection failed: %s", self._host, told, extra=extra)
            return None
        found = look.result()
        self.diverged = self.diverged + 1 if found is not None else 0
        if found is not None:
            self._quiet = _FIRST_QUIET
        return found

    def cancel(self) -> None:
        """End the look under way, and the session that it may have found."""
        if self._look is not None:
            self._look.add_done_callback(_kill_found)
            self._look.cancel()

    async def end(self) -> None:
        """End the look under way, and wait for its end, but not for a driver that goes on."""
        self.cancel()
        if self._look is not None:
            await asyncio.wait([self._look], timeout=_END_TIMEOUT)


async def _kept(look: _Look) -> Found | None:
    """Have a look; the task keeps its exception, whose frames must not keep a login alive."""
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
    """Tell whether two readings come from two servers, judging by what both tell."""
    for one, other in ((known.system_id, fresh.system_id), (known.started_at, fresh.started_at)):
        if one is not None and other is not None and one != other:
            return True
    return known.started_at is None and known.role is not fresh.role


def is_to_be_followed(known: Reading, fresh: Reading, *, no_master: bool, diverged: int) -> bool:
    """Tell whether the monitor of a host that serves should go on with another server of its name.

    A name may lead to a master and its standbys in turn. The monitor leaves a master that answers
    only for one that has replaced it. It leaves a replica for a master if there is none, or if so
    many looks in a row have found no replica that the name seems to lead to none.
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
        return True  # the timelines do not tell, so the name decides which one is the master
    return fresh.timeline > known.timeline


def is_standby_of(last: Reading, fresh: Reading) -> bool:
    """Tell whether a name that led to a master leads to a standby now, so it may lead to both."""
    led_to_master = last.role is Role.MASTER and fresh.role is Role.REPLICA
    return led_to_master and is_another_server(last, fresh)
