"""The prober: asks one host, over a session that it opens, what its server is."""

import asyncio
import logging
from collections.abc import Callable
from copy import copy
from types import MappingProxyType
from typing import Any, Final

from hasql._probing.options import ProbingOptions
from hasql._probing.stall_timer import StallTimer
from hasql._probing.stopwatch import Stopwatch
from hasql.cluster.probe import ProbeForm, Reading, Role, read_row
from hasql.diagnostics import about
from hasql.driver import Driver, Endpoint, Failure, Session
from hasql.driver.deadline import cancellations
from hasql.driver.judgement import judged

__all__ = ("NoAnswerError", "Prober", "heed_cancellation")

log = logging.getLogger("hasql")

#: How often in a row a server has to refuse a form: once may have been by chance.
_REFUSALS = 2
#: What a server that denies a form of the probe does without.
_LOST: Final = MappingProxyType(
    {
        ProbeForm.FULL: "after a failover the outcome of a commit may stay unknown",
        ProbeForm.CORE: "fencing is off for it",
        ProbeForm.PLAIN: "fencing is off for it",
    }
)
#: Seconds after which a server that denied a form of the probe is asked for all again.
_DENIED_FOR = 60.0


class NoAnswerError(TimeoutError):
    """A host has been silent for refresh_timeout."""


class _Opening:
    """A session that is being opened, and asked for the first time."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._has_left = endpoint.has_left
        self._dialled = endpoint.addresses
        self.connecting = asyncio.timeout(None)
        self.session: Session | None = None
        #: Whether it was ended because its name leads elsewhere.
        self.left_behind = False

    def leads_away(self) -> bool:
        """Tell whether it leads to where the host's name leads no more."""
        if self.session is not None:
            return self._has_left(self.session.address)
        return bool(self._dialled) and all(map(self._has_left, self._dialled))

    def end(self) -> None:
        """Wait for it no more."""
        if self.session is not None:
            self.session.kill()
        elif not self.connecting.expired():
            self.connecting.reschedule(0.0)


class Prober:
    """Asks one host, and knows how much its server tells."""

    def __init__(
        self,
        endpoint: Endpoint,
        driver: Driver[Any, Any],
        options: ProbingOptions,
        stopwatch: Stopwatch,
    ) -> None:
        self._host = endpoint.host
        self._endpoint = endpoint
        self._driver = driver
        self._stopwatch = stopwatch
        self._kwargs = options.pool_factory_kwargs
        self._hide = options.hide
        self._clock = options.clock
        self._refresh_timeout = options.refresh_timeout
        self._form = ProbeForm.FULL
        self._form_since = options.clock()
        #: Whether another process gives the answers than had let us in: it is behind a pooler.
        self.pooled = False
        #: Whether `in_hot_standby` was caught contradicting SQL: a pooler answers from memory.
        self.flag_lies = False
        #: What was logged as denied, by this one and its twin.
        self._denied: set[ProbeForm] = set()
        #: When the server last answered all that is asked for, by the clock.
        self.told_all_at = float("-inf")
        #: Whether the host has taken a login since somebody set this to False.
        self.let_in = False
        #: The sessions that are being opened, by this one and its twins.
        self._openings: dict[_Opening, None] = {}

    def twin(self, *, elsewhere: bool) -> "Prober":
        """Make one that asks beside this one, maybe `elsewhere`, and begins with the whole."""
        other = copy(self)
        if elsewhere:
            other._endpoint = self._endpoint.elsewhere()  # noqa: SLF001  # its own class
        other._form, other._form_since = ProbeForm.FULL, self._clock()  # noqa: SLF001  # its own class
        return other

    async def open(
        self, stall_timer: StallTimer, on_lost: Callable[[], None]
    ) -> tuple[Session, Reading]:
        """Open a new session and ask over it; anew if the host's name moves meanwhile."""
        await self._endpoint.settle()
        while True:
            opening = _Opening(self._endpoint)
            self._openings[opening] = None
            try:
                return await self._open(opening, stall_timer, on_lost)
            except Exception:
                if stall_timer.ended or not opening.left_behind:
                    raise
            finally:
                del self._openings[opening]

    async def _open(
        self, opening: "_Opening", stall_timer: StallTimer, on_lost: Callable[[], None]
    ) -> tuple[Session, Reading]:
        try:
            async with opening.connecting:
                with stall_timer.ending(opening.end):
                    session = await self._driver.connect(self._endpoint, self._kwargs, on_lost)
        except TimeoutError:
            if opening.connecting.expired():
                raise self.no_answer() from None
            raise
        opening.session = session
        self._form, self.let_in = ProbeForm.FULL, True
        try:
            with stall_timer.ending(session.kill):
                heed_cancellation()
                reading = await self.ask(session, known=None)
        except BaseException as error:
            session.kill()
            if stall_timer.ended and isinstance(error, Exception):
                raise self.no_answer() from None
            raise
        return session, reading

    def leave_if_moved(self) -> bool:
        """Have what is being opened begin anew if the host's name has left where it leads.

        Return whether it has.
        """
        left = [opening for opening in self._openings if opening.leads_away()]
        for opening in left:
            opening.left_behind = True
            opening.end()
        return bool(left)

    async def ask(self, session: Session, known: Reading | None) -> Reading:
        """Ask once over this session, for less where the server denies the whole.

        With a `known` reading only its role is confirmed, which is cheap; a change of role asks
        for everything.
        """
        if known is not None:
            reading = await self._timed(session, ProbeForm.BARE)
            if reading.role is known.role:
                return known
        if self._clock() - self._form_since > _DENIED_FOR:
            self._form = ProbeForm.FULL
        refusals = 0
        while True:
            try:
                reading = await self._timed(session, self._form)
            except Exception as error:
                refusals += 1
                if judged(self._driver, error) is not Failure.STATEMENT:
                    raise
                if refusals == _REFUSALS:
                    refusals = 0
                    self._step_down(error)
                continue
            self.told_all_at = self._clock()
            return reading

    def _step_down(self, error: Exception) -> None:
        """Ask for less from now on; raise where there is nothing less to ask for."""
        smaller = self._form.smaller
        if smaller is None:
            raise error
        if self._form not in self._denied:
            self._denied.add(self._form)
            log.warning(
                "%s does not answer the %s probe (%s); %s",
                self._host, self._form.name.lower(), self._hide(str(error)), _LOST[self._form],
                extra=about("probe_denied", host=self._host),
            )  # fmt: skip
        self._form, self._form_since = smaller, self._clock()

    async def _timed(self, session: Session, form: ProbeForm) -> Reading:
        began, flag = self._clock(), session.in_hot_standby
        row = await session.fetch_row(form.value)
        heed_cancellation()
        self._stopwatch.record(self._clock() - began)
        # A pooler may answer for a server from memory. Not so when the flag turned to `off` with
        # this very answer: that is a promotion while it was given.
        reading = read_row(form, row)
        if flag is False and reading.role is Role.REPLICA:
            self.flag_lies = True
        if reading.backend_pid is not None and session.login_pid is not None:
            self.pooled = reading.backend_pid != session.login_pid
        return reading

    def no_answer(self) -> NoAnswerError:
        """Make the error of a host that has been silent for too long."""
        return NoAnswerError(f"no answer within {self._refresh_timeout:g} s")


def heed_cancellation() -> None:
    """Raise a cancellation that a driver has lost: nothing else would end the task."""
    if cancellations():
        raise asyncio.CancelledError
