"""The monitor: the loop that probes one node."""

import asyncio
import logging
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from hasql._manager.options import Options
from hasql._probing.fresh_look import Found, FreshLooks, is_another_server, is_to_be_followed
from hasql._probing.prober import NoAnswerError, Prober, heed_cancellation
from hasql._probing.schedule import Bursts, Cadence, Evidence
from hasql._probing.stall_timer import Patience
from hasql._routing.node import Node
from hasql.cluster.dsn import HostSpec
from hasql.cluster.probe import Reading
from hasql.cluster.topology import Answered, Failed, Observation, Quiet
from hasql.driver import ConnT, Driver, Failure, PoolT, Session
from hasql.driver.judgement import judged

__all__ = ("Headquarters", "Monitor")

log = logging.getLogger("hasql")

#: A probe that has not been answered after this many seconds, or after this many median round
#: trips if that is longer, makes its host suspect and is hedged by a fresh connect.
_QUIET_AFTER = 0.1
_QUIET_ROUND_TRIPS = 10
#: What ends a session, though a driver may not have seen its end yet.
_ENDS_SESSION = frozenset({Failure.BROKEN, Failure.LIMIT})
#: Seconds that opening a pool may take: its host has just answered, so it is not silent, but
#: logging in many connections takes a loaded server its time.
_OPEN_TIMEOUT = 10.0
#: A parameter that the server does not know (42704) is refused like a login.
_NOT_MENDED_BY_WAITING = {Failure.REFUSED, Failure.MISCONFIGURED, Failure.STATEMENT}
#: Failures alike, in a row, after which a statement is taken for one that no waiting mends.
_FAILURES_TO_BE_SURE = 3
#: Seconds until a pool that could not be opened is tried again, doubling to refresh_delay.
_FIRST_OPEN_PAUSE = 0.02


_ConnT_contra = TypeVar("_ConnT_contra", contravariant=True)


class Headquarters(Protocol[_ConnT_contra]):
    """Where monitors report to."""

    def publish(self, observation: Observation) -> None:
        """Take in what a probe has said."""

    def signal(self, host: HostSpec, evidence: Evidence | None = None) -> bool:
        """Take note that something may have changed on a host, as `evidence` has it."""
        ...

    def heard(self, node: Node[Any, Any], connection: _ConnT_contra, error: BaseException) -> None:
        """Take note of an error in the use of a connection of a node's pool."""

    def out(self, node: Node[Any, Any]) -> tuple[object, ...]:
        """Return the leases in use on a node."""
        ...

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child, in which nobody may touch what is the parent's."""

    def is_urgent(self) -> bool:
        """Whether an answer is being waited for: there is no master."""

    def is_wanted(self, host: HostSpec) -> bool:
        """Whether a host that answers is to have a pool."""
        ...

    def is_excluded(self, host: HostSpec) -> bool:
        """Whether a host is kept out of routing though it may answer."""
        ...

    async def warm_up(self, host: HostSpec) -> None:
        """Have the pool of a host that is back open a first connection."""


class Monitor(Generic[PoolT, ConnT]):
    """Probes one node over a reserved connection and publishes what it says.

    Sole writer of what is known of the node. It probes by its cadence, and sooner when told to.
    """

    def __init__(
        self,
        node: Node[PoolT, ConnT],
        driver: Driver[PoolT, ConnT],
        options: Options,
        headquarters: Headquarters[ConnT],
        bursts: Bursts,
    ) -> None:
        self._node = node
        self._driver = driver
        self._kwargs = options.pool_factory_kwargs
        self._refresh_delay = options.refresh_delay
        self._refresh_timeout = options.refresh_timeout
        self._headquarters = headquarters
        self._publish = headquarters.publish
        self._open_at, self._open_pause = float("-inf"), _FIRST_OPEN_PAUSE / 2
        self._loop = asyncio.get_running_loop()
        self._session: Session | None = None
        #: The last full answer on the present session; a short probe only confirms its role.
        self._known: Reading | None = None
        self._prober = Prober(node, driver, options)
        self._began = monotonic()
        self._cadence = Cadence(options.refresh_delay, bursts, headquarters.is_urgent)
        self._wake: asyncio.Future[None] | None = None
        #: When a probe is due that something has asked for, by time.monotonic().
        self._asked_for = float("inf")
        #: Whether the next probe may follow sooner than the load of probing allows, for once.
        self._pressing = False
        #: Whether the last answer came over a new connection, the old one having stayed silent.
        self._afresh = False
        #: What was in use there when the present probe began.
        self._out: tuple[object, ...] = ()
        #: How the opening of the pool failed last, and how often in a row in this way.
        self._failure, self._same_failures = "", 0
        self._looks = FreshLooks(node.host, options.dsn.hide)
        #: Whether the session leads to another server than the one before, which lives on.
        self._elsewhere = False

    async def run(self) -> None:
        """Probe until cancelled; then nothing of it is left. It ends in a forked child."""
        try:
            while not self._headquarters.inherited:
                self._take_look_in()
                await self._probe()
                self._look_if_due()
                await self._pause()
        except asyncio.CancelledError:
            await self._looks.end()
            raise
        finally:
            if not self._headquarters.inherited:
                self._drop_session()
                self._looks.cancel()

    def nudge(self, *, concerned: bool = False) -> None:
        """Probe at once, as the first of a burst.

        `concerned` if a lease on this node has caused it: it was broken, say.
        """
        if concerned:
            self._cadence.hint_due()  # this is the probe that it causes
        self._ask_for(monotonic())

    def press(self) -> None:
        """Have the probe that was asked for begin at once, whenever the last one was.

        Hints keep a host's probes close to one another, and round trips are long where they keep
        this process busy, so that a promotion would often fall into the rest after one.
        """
        self._pressing = True

    def look_afresh(self) -> None:
        """Ask over a new connection as well, with the next probe: the name may lead elsewhere."""
        self._looks.ask()

    def hint(self) -> bool:
        """Probe because of a lease on this node, where that begins no burst.

        Return whether at once; else a little later, with all that is told until then.
        """
        due = self._cadence.hint_due()
        self._ask_for(due)
        return due <= monotonic()

    def nudge_again(self) -> None:
        """Probe because of what the host has shown, where that begins no burst."""
        self._ask_for(self._cadence.evidence_due(self._began))

    def _ask_for(self, due: float) -> None:
        self._asked_for = min(self._asked_for, due)
        if self._wake is not None:
            _wake(self._wake)

    async def _probe(self) -> None:
        """Probe once and publish the outcome, whatever it is."""
        self._asked_for, self._afresh, self._pressing = float("inf"), False, False
        self._prober.let_in = False
        self._out = self._headquarters.out(self._node) if self._node.pooled else ()
        elsewhere, self._elsewhere = self._elsewhere, False
        try:
            reading = await self._read()
        except Exception as error:  # noqa: BLE001  # anything at all means: cannot be used now
            self._drop_session()
            self._publish_failure(error, judged(self._driver, error))
        else:
            now = monotonic()
            self._publish(
                Answered(self._node.host, self._began, now, reading, self._afresh, elsewhere)
            )
            if not self._headquarters.is_wanted(self._node.host):
                return
            if self._node.pool is not None and self._node.cold:
                await self._headquarters.warm_up(self._node.host)
                heed_cancellation()
                self._asked_for = monotonic()  # it serves from the next answer on, if not before
            elif self._node.pool is None and monotonic() >= self._open_at:
                await self._open_pool()

    def _publish_failure(self, error: Exception, failure: Failure) -> None:
        # A pooler takes a login by itself. Without an answer then its server may be dead, or just
        # have no connection left for us, as long as statements of the application's are running.
        waited = failure is Failure.FULL or isinstance(error, NoAnswerError)
        let_in = waited and self._prober.let_in and self._node.pooled
        at_work = let_in and not {*self._out}.isdisjoint(self._headquarters.out(self._node))
        self._publish(
            Failed(
                self._node.host,
                self._began,
                monotonic(),
                error.with_traceback(None),
                refused=failure in _NOT_MENDED_BY_WAITING,
                heard=at_work if let_in else failure in {Failure.REFUSED, Failure.FULL},
                let_in=let_in,
            )
        )

    async def _open_pool(self) -> None:
        """Open the node's pool, which alone is still missing for it to serve.

        What the host said before is published already: opening may take long, and nobody else
        must be taken for the master meanwhile.
        """
        opening = asyncio.timeout(_OPEN_TIMEOUT)
        try:
            async with opening:
                self._node.pool = await self._driver.open(self._node.dsn, self._kwargs, self._heard)
        except Exception as failed:  # noqa: BLE001  # as above
            error = failed
            if opening.expired():
                error = TimeoutError(f"opening the pool took longer than {_OPEN_TIMEOUT:g} s")
            self._node.failed(error)
            self._open_pause = min(2 * self._open_pause, self._refresh_delay)
            self._open_at = monotonic() + self._open_pause
            failure = judged(self._driver, error)
            # A setting that the server does not take is a statement that it does not like.
            refused = failure in _NOT_MENDED_BY_WAITING
            refused |= isinstance(error, TypeError | ValueError)
            # But a statement of the application's own, in a hook, may be mended by waiting.
            self._same_failures = self._same_failures + 1 if str(error) == self._failure else 1
            self._failure = str(error)
            if failure is Failure.STATEMENT and self._same_failures < _FAILURES_TO_BE_SURE:
                refused = False
            before, self._node.refusal = self._node.refusal, error if refused else None
            if refused and before is None:  # once: its probes are answered all the same
                self._publish_failure(error, Failure.REFUSED)
        else:
            self._node.refusal, self._failure = None, ""
            # The answer has aged meanwhile: it serves from the next one on.
            self._asked_for = monotonic()
            heed_cancellation()

    async def _read(self) -> Reading:
        """Get a reading within refresh_timeout, over a fresh connection if the old one is gone."""
        self._began = monotonic()
        with Patience(self._loop, self._refresh_timeout) as patience:
            session = self._session
            if session is not None and not session.closed:
                try:
                    return await self._ask_hedged(session, patience)
                except NoAnswerError:
                    raise  # and it has had its fresh connect as well
                except Exception as error:
                    # A server that ended just this connection is not down: see whether it takes
                    # another.
                    if not session.closed and judged(self._driver, error) not in _ENDS_SESSION:
                        raise
            self._drop_session()
            return await self._ask_afresh(patience)

    async def _ask_afresh(self, patience: Patience) -> Reading:
        """Open a new reserved connection and ask over it; replaces the old one."""
        session, reading = await self._prober.open(patience, self._lost)
        self._drop_session()
        self._session, self._known = session, reading
        self._looks.looked()
        return reading

    def _look_if_due(self) -> None:
        """Ask the host over a fresh connection now and then, beside the probes."""
        known, urgent = self._known, self._headquarters.is_urgent()
        quick = self._is_excluded or (urgent and self._node.several)
        if known is not None and self._looks.due(quick, urgent):
            self._looks.begin(self._look_afresh(known), lambda: self._ask_for(monotonic()))

    @property
    def _is_excluded(self) -> bool:
        return self._headquarters.is_excluded(self._node.host)

    async def _look_afresh(self, known: Reading) -> Found | None:
        with Patience(self._loop, self._refresh_timeout) as patience:
            session, reading = await self._prober.twin().open(patience, self._lost)
        if is_another_server(known, reading):
            return Found(session, reading)
        session.kill()
        return None

    def _take_look_in(self) -> None:
        """Go on with another server that a look has found, unless the one so far is the better."""
        known, found = self._known, self._looks.take()
        if found is None:
            return
        # It was compared with what was known when the look began: the server may have restarted.
        self._elsewhere = known is not None and is_another_server(known, found.reading)
        diverged, urgent = self._looks.diverged, self._headquarters.is_urgent()
        if self._elsewhere and (
            self._is_excluded
            or known is None
            or is_to_be_followed(known, found.reading, no_master=urgent, diverged=diverged)
        ):
            self._drop_session()
            self._session, self._looks.diverged = found.session, 0
        else:
            found.session.kill()

    async def _ask_hedged(self, session: Session, patience: Patience) -> Reading:
        """Ask over the reserved connection; when that goes quiet, over a fresh one as well.

        An old flow may be black-holed by a firewall while new ones work. The connect that
        succeeds kills the old session, and with it the question that is pending there.
        """
        hedge: asyncio.Task[Reading] | None = None

        def hedge_now() -> None:
            nonlocal hedge
            self._publish(Quiet(self._node.host, monotonic()))
            hedge = self._loop.create_task(self._ask_afresh(patience))

        after = max(_QUIET_AFTER, _QUIET_ROUND_TRIPS * (self._node.response_time or 0.0))
        quiet = Patience(self._loop, min(after, self._refresh_timeout / 2))
        known = self._known if self._may_be_short() else None
        try:
            with quiet, quiet.ending(hedge_now), patience.ending(session.kill):
                reading = await self._prober.ask(session, known)
        except Exception:
            if hedge is not None:
                reading, self._afresh = await hedge, True
                return reading
            if patience.lost:
                raise self._prober.no_answer() from None
            raise
        else:
            self._known = reading
            return reading
        finally:
            if hedge is not None:
                hedge.cancel()
                await asyncio.wait([hedge])
                if not hedge.cancelled():
                    hedge.exception()  # taken note of: the old connection has answered

    async def _pause(self) -> None:
        """Wait until the next probe is due, by the cadence or because it was asked for."""
        rest = self._began + self._node.rest
        regular = self._began + self._cadence.delay()
        if self._open_at > self._began:  # opening the pool has just failed
            regular = min(regular, self._open_at)
        # A probe that is due already must not starve the loop's other tasks.
        await asyncio.sleep(0)
        while (wait := self._due(rest, regular) - monotonic()) > 0:
            self._wake = self._loop.create_future()
            timer = self._loop.call_later(wait, _wake, self._wake)
            try:
                await self._wake
            finally:
                timer.cancel()
                self._wake = None

    def _due(self, rest: float, regular: float) -> float:
        due = min(regular, self._asked_for)
        return due if self._pressing else max(rest, due)

    def _may_be_short(self) -> bool:
        """Tell whether the cheap probe will do: in a hurry, and with the whole not long ago."""
        recent = monotonic() - self._prober.told_all_at < self._refresh_delay
        return recent and self._cadence.hurries

    def _heard(self, connection: ConnT, error: BaseException) -> None:
        self._headquarters.heard(self._node, connection, error)

    def _lost(self) -> None:
        self._headquarters.signal(self._node.host, Evidence.LOST)

    def _drop_session(self) -> None:
        session, self._session, self._known = self._session, None, None
        if session is not None:
            session.kill()


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
