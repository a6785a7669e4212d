"""The monitor: the loop that probes one host."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from hasql._probing.cluster_view import ClusterView
from hasql._probing.fresh_look import (
    Found,
    FreshLooks,
    is_another_server,
    is_standby_of,
    is_to_be_followed,
)
from hasql._probing.options import ProbingOptions
from hasql._probing.prober import NoAnswerError, Prober
from hasql._probing.schedule import Bursts, ProbeSchedule
from hasql._probing.stall_timer import StallTimer
from hasql._probing.stopwatch import Stopwatch
from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Reading, Role
from hasql.cluster.state import Exclusion, NodeState
from hasql.cluster.topology import Answered, Failed, Quiet
from hasql.driver import Driver, Endpoint, Failure, Session
from hasql.driver.judgement import judge_error
from hasql.driver.kept_errors import without_frames
from hasql.driver.own_task import note_failure

__all__ = ("Monitor",)

log = logging.getLogger("hasql")

#: A probe that has not been answered after this many seconds, or after this many median round
#: trips if that is longer, makes its host suspect and is hedged by a fresh connect.
_QUIET_AFTER = 0.1
_QUIET_ROUND_TRIPS = 10
#: Failures that end a session, though a driver may not have seen its end yet.
_ENDS_SESSION = frozenset({Failure.BROKEN, Failure.LIMIT})


class Monitor:
    """Probes one host over a reserved connection and publishes what it says.

    It alone writes what is known of the host. It probes by its schedule, and sooner when told to.
    """

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        endpoint: Endpoint,
        driver: Driver[Any, Any],
        options: ProbingOptions,
        view: ClusterView,
        bursts: Bursts,
        on_lost: Callable[[HostSpec], None],
    ) -> None:
        self.host = host = endpoint.host
        self._endpoint = endpoint
        self._driver = driver
        self._refresh_delay = options.refresh_delay
        self._refresh_timeout = options.refresh_timeout
        self._view = view
        self._publish = view.publish
        self._on_lost = partial(on_lost, host)
        self._clock = options.clock
        self._loop = asyncio.get_running_loop()
        self._session: Session | None = None
        #: What the server has told on the present session; a short probe only confirms its role.
        self._known: Reading | None = None
        #: The last answer of all, whatever became of its session.
        self._last: Reading | None = None
        self._stopwatch = Stopwatch(options.stopwatch_window_size)
        self._prober = Prober(endpoint, driver, options, self._stopwatch)
        self._began = self._clock()
        self._schedule = ProbeSchedule(
            options.refresh_delay, bursts, self._is_urgent, options.clock, options.chance
        )
        self._wake: asyncio.Future[None] | None = None
        #: When the probe that was asked for is due, by the clock; infinity: none was.
        self._asked_for = float("inf")
        #: Whether the next probe may, for once, begin without the rest that limits their load.
        self._without_rest = False
        #: Whether the last answer came over a new connection, because the old one stayed silent.
        self._afresh = False
        #: Behind a pooler: the leases in use on the host when the present probe began.
        self._in_use: tuple[object, ...] = ()
        self._looks = FreshLooks(host, options.hide, options.clock, options.chance)
        #: Whether the session leads to another server than its predecessor, which lives on.
        self._elsewhere = False
        #: The addresses that the host's name led to when they were last looked at.
        self._shown: tuple[str, ...] = ()
        #: Whether another master had replaced the host when `_look_if_due` last ran.
        self._replaced = False

    async def run(self) -> None:
        """Probe until cancelled, and leave nothing open then. In a forked child this returns."""
        try:
            while not self._view.inherited:
                self._use_found_server()
                await self._probe()
                self._look_if_due()
                await self._pause()
        except asyncio.CancelledError:
            await self._looks.end()
            raise
        finally:
            if not self._view.inherited:
                self._drop_session()
                self._looks.cancel()

    # When to probe

    def probe_now(self, *, concerned: bool = False) -> None:
        """Probe at once, as the first of a burst.

        `concerned`: whether a lease on this host has caused that, by being broken, say.
        """
        if concerned:
            self._schedule.hint_due()  # this probe is the one that such a hint causes
        self.probe_by(self._clock())

    def skip_rest(self) -> None:
        """Let the probe that was asked for begin at once, however recent the last one is.

        Hints make a host's probes frequent, and if they keep this process busy, round trips are
        long, and so are the rests. A promotion would often fall into one.
        """
        self._without_rest = True

    def leave_if_moved(self) -> bool:
        """Go on over a new connection if the host's name has left the address of the present one.

        Returns whether it has. A rotating name may not have: then only a fresh look is asked for.
        """
        moved = self._prober.leave_if_moved()
        if self._session is not None and self._endpoint.has_left(self._session.address):
            self._session.kill()  # a probe under way goes on over a new one
            moved = True
        if moved:
            self.skip_rest()
            self.probe_by(self._clock())
        elif self._shows_another_than_master():
            self._looks.ask()
            if self._looks.due(quick=False, no_master=False):
                self.probe_by(self._clock())
        # Without a session the next probe goes to the new address anyway, now or when it is due.
        return moved or (self._session is None and self._endpoint.has_left(self._endpoint.last))

    def _shows_another_than_master(self) -> bool:
        """Tell whether the host's name, which rotates, has just turned from the master's address.

        As long as the name may come back to an address, it has not left that. But if another master
        has taken this one's place, the name is the first to show it.
        """
        before, self._shown = self._shown, self._endpoint.addresses
        known, session = self._known, self._session
        is_master = known is not None and known.role is Role.MASTER
        if before == self._shown or not is_master or session is None:
            return False
        return not self._endpoint.shows(session.address)

    @property
    def is_replaced(self) -> bool:
        """Whether a master of a newer timeline has replaced the host."""
        state = self._state
        return state is not None and state.exclusion is Exclusion.FENCED

    def ask_fresh_look(self) -> None:
        """Ask over a new connection, too, with the next probe: the name may lead elsewhere."""
        self._looks.ask()

    def probe_on_hint(self) -> bool:
        """Probe because of a lease on this host, if that begins no burst.

        Returns whether that is at once; else it is a little later, once for all hints until then.
        """
        due = self._schedule.hint_due()
        self.probe_by(due)
        return due <= self._clock()

    def probe_again(self) -> None:
        """Probe because of what the host has shown, if that begins no burst."""
        self.probe_by(self._schedule.evidence_due(self._began))

    def probe_by(self, due: float) -> None:
        """Probe at this time by the clock, unless a probe is due sooner."""
        self._asked_for = min(self._asked_for, due)
        if self._wake is not None:
            _wake(self._wake)

    async def _pause(self) -> None:
        """Wait until the next probe is due, by the schedule or because it was asked for."""
        rest = self._began + self._stopwatch.rest
        regular = self._began + self._schedule.delay(answers=self._known is not None)
        if (state := self._state) is not None:
            regular = min(regular, state.abort_due(self._view.topology.rules.lease_abort_after))
        # A probe that is due already must not starve the loop's other tasks.
        await asyncio.sleep(0)
        while (wait := self._due(rest, regular) - self._clock()) > 0:
            self._wake = self._loop.create_future()
            timer = self._loop.call_later(wait, _wake, self._wake)
            try:
                await self._wake
            finally:
                timer.cancel()
                self._wake = None

    def _due(self, rest: float, regular: float) -> float:
        due = min(regular, self._asked_for)
        return due if self._without_rest else max(rest, due)

    def _is_urgent(self) -> bool:
        """Tell whether acquires may wait for an answer, because there is no master."""
        return not self._view.topology.masters

    @property
    def _state(self) -> NodeState | None:
        return self._view.topology.node(self.host)

    # One probe

    async def _probe(self) -> None:
        """Probe once and publish the outcome, whatever it is."""
        self._asked_for, self._afresh, self._without_rest = float("inf"), False, False
        self._prober.login_accepted = False
        self._in_use = self._view.in_use(self.host) if self._prober.pooled else ()
        elsewhere, self._elsewhere = self._elsewhere, False
        try:
            reading = await self._read()
        except Exception as error:  # noqa: BLE001  # whatever it is, the host cannot be used now
            self._drop_session()
            self._publish_failure(error, judge_error(self._driver, error))
        else:
            self._answered(self._began, reading, afresh=self._afresh, elsewhere=elsewhere)

    def _answered(self, began: float, reading: Reading, *, afresh: bool, elsewhere: bool) -> None:
        self._last = reading
        self._publish(
            Answered(
                self.host,
                began,
                self._clock(),
                reading,
                afresh,
                elsewhere,
                response_time=self._stopwatch.median,
                pooled=self._prober.pooled,
                flag_unreliable=self._prober.flag_unreliable,
            )
        )

    def _publish_failure(self, error: Exception, failure: Failure) -> None:
        # A pooler accepts a login by itself. If no answer follows, its server may be dead, or just
        # have no connection left for a probe while the application's statements are running.
        waited = failure is Failure.FULL or isinstance(error, NoAnswerError)
        accepted = waited and self._prober.login_accepted and self._prober.pooled
        at_work = accepted and not {*self._in_use}.isdisjoint(self._view.in_use(self.host))
        self._publish(
            Failed(
                self.host,
                self._began,
                self._clock(),
                without_frames(error),
                refused=failure.lasts,
                known_alive=at_work if accepted else failure in {Failure.REFUSED, Failure.FULL},
                login_accepted=accepted,
            )
        )

    async def _read(self) -> Reading:
        """Get a reading within refresh_timeout, over a fresh connection if the old one is gone."""
        self._began = self._clock()
        with self._stall_timer(self._refresh_timeout) as limit:
            session = self._session
            if session is not None and not session.closed:
                try:
                    reading = await self._ask_hedged(session, limit)
                    if self._session and not self._endpoint.has_left(self._session.address):
                        return reading  # else it is from where the name led before
                except NoAnswerError:
                    raise  # the host has had its fresh connect, too
                except Exception as error:
                    # A server that ended just this connection is not down: see whether it takes
                    # another.
                    if not session.closed and judge_error(self._driver, error) not in _ENDS_SESSION:
                        raise
            self._drop_session()
            return await self._ask_afresh(limit)

    async def _ask_afresh(self, limit: StallTimer) -> Reading:
        """Open a new reserved connection, which replaces the old one, and ask over it."""
        session, reading = await self._prober.open(limit, self._on_lost)
        self._drop_session()
        self._session, self._known = session, reading
        self._looks.looked()
        if self._last is not None and is_standby_of(self._last, reading):
            self._looks.expect_another()
        return reading

    async def _ask_hedged(self, session: Session, limit: StallTimer) -> Reading:
        """Ask over the reserved connection; when that goes quiet, over a fresh one, too.

        A firewall may black-hole an old flow while new ones work. A fresh connect that succeeds
        kills the old session, and with it the query that is pending there.
        """
        hedge: asyncio.Task[Reading] | None = None

        def hedge_now() -> None:
            nonlocal hedge
            self._publish(Quiet(self.host, self._clock()))
            hedge = self._loop.create_task(self._ask_afresh(limit))
            hedge.add_done_callback(note_failure)  # else unread if the old one has answered

        after = max(_QUIET_AFTER, _QUIET_ROUND_TRIPS * (self._stopwatch.median or 0.0))
        quiet = self._stall_timer(min(after, self._refresh_timeout / 2))
        known = self._known if self._schedule.hurries else None
        try:
            with quiet, quiet.ending(hedge_now), limit.ending(session.kill):
                reading = await self._prober.ask(session, known)
        except Exception:
            if hedge is not None:
                reading, self._afresh = await hedge, True
                return reading
            if limit.ended:
                raise self._prober.no_answer() from None
            raise
        else:
            if hedge is not None and self._session not in (session, None):  # both have answered
                reading, self._afresh = await hedge, True
            self._known = reading
            return reading
        finally:
            if hedge is not None:
                hedge.cancel()
                await asyncio.wait([hedge])

    def _stall_timer(self, seconds: float) -> StallTimer:
        return StallTimer(self._loop, self._clock, seconds)

    def _drop_session(self) -> None:
        session, self._session, self._known = self._session, None, None
        if session is not None:
            session.kill()

    # Whether the host's name leads to another server by now

    def _look_if_due(self) -> None:
        """Ask the host over a fresh connection now and then, beside the probes."""
        known, state, urgent = self._known, self._state, self._is_urgent()
        excluded = state is not None and state.exclusion is not None
        was_replaced, self._replaced = self._replaced, self.is_replaced
        if self._replaced and not was_replaced and not urgent:
            self._looks.spread()
        several = len(self._endpoint.addresses) > 1 or (state is not None and state.several_servers)
        quick = excluded or (urgent and several)
        if known is not None and self._looks.due(quick, urgent):
            look = partial(self._look_afresh, known, elsewhere=quick)
            self._looks.begin(look, lambda: self.probe_by(self._clock()))

    async def _look_afresh(self, known: Reading, *, elsewhere: bool) -> Found | None:
        prober, began = self._prober.copy_for_look(elsewhere=elsewhere), self._clock()
        with self._stall_timer(self._refresh_timeout) as limit:
            session, reading = await prober.open(limit, self._on_lost)
        if is_another_server(known, reading):
            return Found(session, reading)
        session.kill()
        if (known.role, known.timeline) != (reading.role, reading.timeline):
            # It was promoted meanwhile, and the next probe may be a second away. If a probe began
            # after this look, it counts for more, but may have been answered too early: ask again.
            if self._began > began:
                self.probe_by(self._clock())
            else:
                self._answered(began, reading, afresh=False, elsewhere=False)
        return None

    def _use_found_server(self) -> None:
        """Go on with another server that a look has found, unless the present one is better."""
        known, found, state = self._known, self._looks.take(), self._state
        if found is None:
            return
        # The look has compared it with what was known before: the server may have restarted since.
        self._elsewhere = known is not None and is_another_server(known, found.reading)
        diverged, urgent = self._looks.diverged, self._is_urgent()
        if self._elsewhere and (
            (state is not None and state.exclusion is not None)
            or known is None
            or is_to_be_followed(known, found.reading, no_master=urgent, diverged=diverged)
        ):
            self._drop_session()
            self._session, self._looks.diverged = found.session, 0
            self._endpoint.note_connected(found.session.address)
        else:
            found.session.kill()


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
