"""The prober: asks one host, over a session that it opens, what its server is."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from copy import copy
from types import MappingProxyType
from typing import Any, Final, TypeVar

from hasql._probing.options import ProbingOptions
from hasql._probing.stall_timer import StallTimer
from hasql._probing.stopwatch import Stopwatch
from hasql.cluster.probe import STANDBY_QUERY, ProbeForm, Reading, Role, read_row
from hasql.diagnostics import about
from hasql.driver import Driver, Endpoint, Failure, Session
from hasql.driver.deadline import cancellations
from hasql.driver.judgement import judge_error, sqlstate_of

__all__ = ("NoAnswerError", "Prober", "heed_cancellation")

_T = TypeVar("_T")

log = logging.getLogger("hasql")

#: How often in a row a server has to refuse a form of the probe: once may have been by chance.
_REFUSALS = 2
#: The codes of a transaction that has taken longer than `transaction_timeout` (since PostgreSQL
#: 17), and of a pooler whose server has gone. That server may have sent the first code before: of
#: two errors asyncpg keeps the last.
_MAY_BE_LIMIT: Final = frozenset({"25P04", "08P01"})
#: What is missing with a server that denies a form of the probe.
_MISSING: Final = MappingProxyType(
    {
        ProbeForm.FULL: "after a failover the outcome of a commit may stay unknown",
        ProbeForm.CORE: "fencing is off for it",
        ProbeForm.PLAIN: "fencing is off for it",
    }
)
#: Seconds after which a server that denied a form of the probe is asked for everything again.
_DENIED_FOR = 60.0
#: For so many `refresh_delay` after a server has told everything, a probe in a hurry asks only for
#: what may change. That is long enough for a burst and the time before it.
_COMPLETE_FOR = 5


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
        self.name_moved = False

    def leads_away(self) -> bool:
        """Tell whether it leads only to addresses that the host's name has left."""
        if self.session is not None:
            return self._has_left(self.session.address)
        return bool(self._dialled) and all(map(self._has_left, self._dialled))

    def end(self) -> None:
        """Stop waiting for the session, and close it if it is open already."""
        if self.session is not None:
            self.session.kill()
        elif not self.connecting.expired():
            self.connecting.reschedule(0.0)


class Prober:
    """Asks one host, and remembers how much its server tells."""

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
        self._refresh_delay = options.refresh_delay
        self._refresh_timeout = options.refresh_timeout
        self._form = ProbeForm.FULL
        self._form_since = options.clock()
        #: Whether the answers come from another process than the login's: a pooler is in between.
        self.pooled = False
        #: Whether `in_hot_standby` was seen to contradict SQL: a pooler answers from memory.
        self.flag_unreliable = False
        #: The forms that were logged as denied, by this prober and its copies.
        self._denied: set[ProbeForm] = set()
        #: When the server last told more than its role, and when it last told everything; both by
        #: the clock.
        self._details_at = self._complete_at = float("-inf")
        #: Whether the host has taken a login since the monitor last set this to False.
        self.login_accepted = False
        #: Whether a limit of the role, or of the database, may have ended a session in a probe.
        self._is_limited = False
        #: The sessions that are being opened, by this prober and its copies.
        self._openings: dict[_Opening, None] = {}

    def copy_for_look(self, *, elsewhere: bool) -> "Prober":
        """Make a prober that asks beside this one, and begins with the full probe.

        If `elsewhere`, it tries another address first than the one that connected last.
        """
        other = copy(self)
        if elsewhere:
            other._endpoint = self._endpoint.elsewhere()  # noqa: SLF001  # its own class
        other._form, other._form_since = ProbeForm.FULL, self._clock()  # noqa: SLF001  # its own class
        return other

    async def open(
        self, stall_timer: StallTimer, on_lost: Callable[[], None]
    ) -> tuple[Session, Reading]:
        """Open a new session and ask over it.

        This begins anew if the host's name moves meanwhile, or if a limit of the role has ended the
        session; the next session does without that limit.
        """
        await self._endpoint.await_first_lookup()
        while True:
            opening, was_limited = _Opening(self._endpoint), self._is_limited
            self._openings[opening] = None
            try:
                session, reading = await self._open(opening, stall_timer, on_lost)
                if not (opening.name_moved or self._endpoint.has_left(session.address)):
                    return session, reading
                session.kill()  # it had answered just before its name moved
            except Exception:
                anew = opening.name_moved or self._is_limited is not was_limited
                if stall_timer.ended or not anew:
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
        if self._is_limited:
            session.send_settings()
        self._form, self.login_accepted = ProbeForm.FULL, True
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
        """Begin anew each session that is being opened to an address which the name has left.

        Returns whether there was one.
        """
        left = [opening for opening in self._openings if opening.leads_away()]
        for opening in left:
            opening.name_moved = True
            opening.end()
        return bool(left)

    async def ask(self, session: Session, known: Reading | None) -> Reading:
        """Ask once over this session, for less if the server denies the full probe.

        `known` is what this session has told before. While that is not older than `refresh_delay`,
        only the role is confirmed, which is cheap. Otherwise, and if the role has changed, the
        server is asked for what may have changed.
        """
        try:
            return await self._ask(session, known)
        except Exception as error:
            if sqlstate_of(self._driver, error) in _MAY_BE_LIMIT:
                self._is_limited = True
            raise

    async def _ask(self, session: Session, known: Reading | None) -> Reading:
        if known is not None:
            recent = self._clock() - self._details_at < self._refresh_delay
            if recent and await self._confirms(session, known.role):
                return known
            changed = await self._ask_changes(session, known)
            if changed is not None:
                return changed
        return await self._ask_all(session)

    async def _confirms(self, session: Session, role: Role) -> bool:
        """Tell whether the server still has this role."""
        flag = session.in_hot_standby
        recovers = await self._timed(session.has_row(STANDBY_QUERY))
        said = Role.REPLICA if recovers else Role.MASTER
        self._compare(said, flag)
        return said is role

    async def _ask_changes(self, session: Session, known: Reading) -> Reading | None:
        """Ask for what may have changed since the server told everything; None: ask for all again.

        This is done only if answers come from the process of the login. Then there is no pooler in
        between, and what never changes on one server is as true as when the session was opened.
        """
        since = self._clock() - self._complete_at
        direct = known.backend_pid is not None and known.backend_pid == session.login_pid
        if since > _COMPLETE_FOR * self._refresh_delay or not direct:
            return None
        if self._form is not ProbeForm.FULL or None in {known.system_id, known.started_at}:
            return None
        try:
            return await self._ask_form(session, ProbeForm.CHANGES, known)
        except Exception as error:
            if judge_error(self._driver, error) is not Failure.STATEMENT:
                raise
            return None

    async def _ask_all(self, session: Session) -> Reading:
        """Ask for everything that the server tells."""
        if self._clock() - self._form_since > _DENIED_FOR:
            self._form = ProbeForm.FULL
        refusals = 0
        while True:
            form = self._form
            try:
                reading = await self._ask_form(session, form)
            except Exception as error:
                refusals += 1
                if judge_error(self._driver, error) is not Failure.STATEMENT:
                    raise
                if refusals == _REFUSALS:
                    refusals = 0
                    self._step_down(error)
                continue
            if form is ProbeForm.FULL:
                self._complete_at = self._clock()
            return reading

    def _step_down(self, error: Exception) -> None:
        """Ask for less from now on; raise if there is nothing less to ask for."""
        smaller = self._form.smaller
        if smaller is None:
            raise error
        if self._form not in self._denied:
            self._denied.add(self._form)
            log.warning(
                "%s does not answer the %s probe (%s); %s",
                self._host, self._form.name.lower(), self._hide(str(error)), _MISSING[self._form],
                extra=about("probe_denied", host=self._host),
            )  # fmt: skip
        self._form, self._form_since = smaller, self._clock()

    async def _ask_form(
        self, session: Session, form: ProbeForm, known: Reading | None = None
    ) -> Reading:
        flag = session.in_hot_standby
        row = await self._timed(session.fetch_row(form.value))
        reading = read_row(form, row, known)
        self._compare(reading.role, flag)
        if reading.backend_pid is not None and session.login_pid is not None:
            self.pooled = reading.backend_pid != session.login_pid
        self._details_at = self._clock()
        return reading

    async def _timed(self, asking: Awaitable[_T]) -> _T:
        began = self._clock()
        answer = await asking
        heed_cancellation()
        self._stopwatch.record(self._clock() - began)
        return answer

    def _compare(self, role: Role, flag: bool | None) -> None:  # noqa: FBT001  # as the server's
        """Compare what SQL says with `flag`, the value of `in_hot_standby` before the query.

        If they contradict each other, a pooler answers for a server from memory. The value from
        before counts, because a flag that turns to `off` with this very answer contradicts nothing:
        then the server was promoted while it answered.
        """
        if flag is False and role is Role.REPLICA:
            self.flag_unreliable = True

    def no_answer(self) -> NoAnswerError:
        """Make the error for a host that has been silent for too long."""
        return NoAnswerError(f"no answer within {self._refresh_timeout:g} s")


def heed_cancellation() -> None:
    """Raise a cancellation that a driver has swallowed: nothing else would end the task."""
    if cancellations():
        raise asyncio.CancelledError
