"""The monitor: the loop that probes one node."""

import asyncio
import logging
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from hasql.cadence import Bursts, Cadence, Evidence
from hasql.cluster.dsn import HostSpec
from hasql.cluster.probe import ProbeForm, Reading, Role, read_row
from hasql.cluster.topology import Answered, Failed, Observation, Quiet
from hasql.deadline import cancellations
from hasql.driver import ConnT, Driver, Failure, PoolT, Session
from hasql.node import Node
from hasql.options import Options
from hasql.patience import Patience

__all__ = ("Headquarters", "Monitor")

log = logging.getLogger("hasql")

#: A probe that has not been answered after this many seconds, or after this many median round
#: trips if that is longer, makes its host suspect and is hedged by a fresh connect.
_QUIET_AFTER = 0.1
_QUIET_ROUND_TRIPS = 10
#: What ends a session, though a driver may not have seen its end yet.
_ENDS_SESSION = frozenset({Failure.BROKEN, Failure.LIMIT})
#: How often in a row a server has to refuse a form: once may have been by chance.
_REFUSALS = 2
#: Seconds after which a server that denied a form of the probe is asked for all again.
_DENIED_FOR = 60.0
#: Seconds that opening a pool may take: its host has just answered, so it is not silent, but
#: logging in many connections takes a loaded server its time.
_OPEN_TIMEOUT = 10.0


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

    def is_urgent(self) -> bool:
        """Whether an answer is being waited for: there is no master."""
        ...

    def is_wanted(self, host: HostSpec) -> bool:
        """Whether a host that answers is to have a pool."""
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
        self._open_at = float("-inf")
        self._loop = asyncio.get_running_loop()
        self._session: Session | None = None
        #: The last full answer on the present session; a short probe only confirms its role.
        self._known: Reading | None = None
        self._known_at = float("-inf")
        self._form = ProbeForm.FULL
        self._form_since = monotonic()
        self._denied: set[ProbeForm] = set()
        self._began = monotonic()
        self._cadence = Cadence(options.refresh_delay, bursts, headquarters.is_urgent)
        self._wake: asyncio.Future[None] | None = None
        #: When a probe is due that something has asked for, by time.monotonic().
        self._asked_for = float("inf")
        #: Whether the last answer came over a new connection, the old one having stayed silent.
        self._afresh = False
        #: Whether the host has taken a login, and what was in use there, in the present probe.
        self._let_in = False
        self._out: tuple[object, ...] = ()

    async def run(self) -> None:
        """Probe until cancelled; then nothing of it is left."""
        try:
            while True:
                await self._probe()
                await self._pause()
        finally:
            self._drop_session()

    def nudge(self, *, concerned: bool = False) -> None:
        """Probe at once, as the first of a burst.

        `concerned` if a lease on this node has caused it: it was broken, say.
        """
        if concerned:
            self._cadence.hint_due()  # this is the probe that it causes
        self._ask_for(monotonic())

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
        self._asked_for, self._afresh, self._let_in = float("inf"), False, False
        self._out = self._headquarters.out(self._node) if self._node.pooled else ()
        try:
            reading = await self._read()
        except Exception as error:  # noqa: BLE001  # anything at all means: cannot be used now
            self._drop_session()
            self._publish_failure(error, self._driver.failure(error))
        else:
            self._publish(
                Answered(self._node.host, self._began, monotonic(), reading, self._afresh)
            )
            if not self._headquarters.is_wanted(self._node.host):
                return
            if self._node.pool is not None and self._node.cold:
                await self._headquarters.warm_up(self._node.host)
                _heed_cancellation()
                self._asked_for = monotonic()  # it serves from the next answer on, if not before
            elif self._node.pool is None and monotonic() >= self._open_at:
                await self._open_pool()

    def _publish_failure(self, error: Exception, failure: Failure) -> None:
        # A pooler takes a login by itself. Without an answer then its server may be dead, or just
        # have no connection left for us, as long as statements of the application's are running.
        waited = failure is Failure.FULL or isinstance(error, NoAnswerError)
        let_in = waited and self._let_in and self._node.pooled
        at_work = let_in and not {*self._out}.isdisjoint(self._headquarters.out(self._node))
        self._publish(
            Failed(
                self._node.host,
                self._began,
                monotonic(),
                error.with_traceback(None),
                # A parameter that the server does not know (42704) is refused like a login.
                refused=failure in {Failure.REFUSED, Failure.STATEMENT},
                heard=at_work if let_in else failure in {Failure.REFUSED, Failure.FULL},
                let_in=let_in,
            )
        )

    async def _open_pool(self) -> None:
        """Open the node's pool, which alone is still missing for it to serve.

        What the host said before is published already: opening may take long, and nobody else
        must be taken for the master meanwhile.
        """
        self._open_at = monotonic() + self._refresh_delay
        opening = asyncio.timeout(_OPEN_TIMEOUT)
        try:
            async with opening:
                self._node.pool = await self._driver.open(self._node.dsn, self._kwargs, self._heard)
        except Exception as failed:  # noqa: BLE001  # as above
            error = failed
            if opening.expired():
                error = TimeoutError(f"opening the pool took longer than {_OPEN_TIMEOUT:g} s")
            self._node.failed(error)
            failure = self._driver.failure(error)
            if failure is Failure.REFUSED or isinstance(error, TypeError | ValueError):
                self._publish_failure(error, Failure.REFUSED)
        else:
            # The answer has aged meanwhile: it serves from the next one on.
            self._asked_for = monotonic()
            _heed_cancellation()

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
                    if not session.closed and self._driver.failure(error) not in _ENDS_SESSION:
                        raise
            self._drop_session()
            return await self._ask_afresh(patience)

    async def _ask_afresh(self, patience: Patience) -> Reading:
        """Open a new reserved connection and ask over it; replaces the old one."""
        connecting = asyncio.timeout(None)
        try:
            async with connecting:
                with patience.ending(lambda: connecting.reschedule(0.0)):
                    session = await self._driver.connect(self._node.dsn, self._kwargs, self._lost)
        except TimeoutError:
            if connecting.expired():
                raise self._no_answer() from None
            raise
        self._form, self._let_in = ProbeForm.FULL, True
        try:
            with patience.ending(session.kill):
                _heed_cancellation()
                reading = await self._ask(session, known=None)
        except BaseException as error:
            session.kill()
            if patience.lost and isinstance(error, Exception):
                raise self._no_answer() from None
            raise
        self._drop_session()
        self._session, self._known = session, reading
        return reading

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
                reading = await self._ask(session, known)
        except Exception:
            if hedge is not None:
                reading, self._afresh = await hedge, True
                return reading
            if patience.lost:
                raise self._no_answer() from None
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

    async def _ask(self, session: Session, known: Reading | None) -> Reading:
        """Ask once over this session, for less where the server denies the whole.

        With a `known` reading only its role is confirmed, which is cheap; a change of role asks
        for everything.
        """
        if known is not None:
            reading = await self._timed(session, ProbeForm.BARE)
            if reading.role is known.role:
                return known
        if monotonic() - self._form_since > _DENIED_FOR:
            self._form = ProbeForm.FULL
        refusals = 0
        while True:
            try:
                reading = await self._timed(session, self._form)
            except Exception as error:
                refusals += 1
                if self._driver.failure(error) is not Failure.STATEMENT:
                    raise
                if refusals == _REFUSALS:
                    refusals = 0
                    self._step_down(error)
                continue
            self._known_at = monotonic()
            return reading

    def _step_down(self, error: Exception) -> None:
        """Ask for less from now on; raise where there is nothing less to ask for."""
        smaller = self._form.smaller
        if smaller is None:
            raise error
        if self._form not in self._denied:
            self._denied.add(self._form)
            log.warning(
                "%s does not answer the %s probe (%s); fencing is off for it",
                self._node.host, self._form.name.lower(), error,
            )  # fmt: skip
        self._form, self._form_since = smaller, monotonic()

    async def _timed(self, session: Session, form: ProbeForm) -> Reading:
        began, flag = monotonic(), session.in_hot_standby
        row = await session.fetch_row(form.value)
        _heed_cancellation()
        self._node.record_response_time(monotonic() - began)
        # A pooler may answer for a server from memory. Not so when the flag turned to `off` with
        # this very answer: that is a promotion while it was given.
        reading = read_row(form, row)
        if flag is False and reading.role is Role.REPLICA:
            self._node.flag_lies = True
        if reading.backend_pid is not None and session.login_pid is not None:
            self._node.pooled = reading.backend_pid != session.login_pid
        return reading

    async def _pause(self) -> None:
        """Wait until the next probe is due, by the cadence or because it was asked for."""
        rest = self._began + self._node.rest
        regular = self._began + self._cadence.delay()
        # A probe that is due already must not starve the loop's other tasks.
        await asyncio.sleep(0)
        while (wait := max(rest, min(regular, self._asked_for)) - monotonic()) > 0:
            self._wake = self._loop.create_future()
            timer = self._loop.call_later(wait, _wake, self._wake)
            try:
                await self._wake
            finally:
                timer.cancel()
                self._wake = None

    def _may_be_short(self) -> bool:
        """Tell whether the cheap probe will do: in a hurry, and with the whole not long ago."""
        recent = monotonic() - self._known_at < self._refresh_delay
        return recent and self._cadence.hurries

    def _heard(self, connection: ConnT, error: BaseException) -> None:
        self._headquarters.heard(self._node, connection, error)

    def _lost(self) -> None:
        self._headquarters.signal(self._node.host, Evidence.LOST)

    def _drop_session(self) -> None:
        session, self._session, self._known = self._session, None, None
        if session is not None:
            session.kill()

    def _no_answer(self) -> "NoAnswerError":
        return NoAnswerError(f"no answer within {self._refresh_timeout:g} s")


class NoAnswerError(TimeoutError):
    """A host has been silent for refresh_timeout."""


def _heed_cancellation() -> None:
    """Raise a cancellation that a driver has lost: nothing else would end the task."""
    if cancellations():
        raise asyncio.CancelledError


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
