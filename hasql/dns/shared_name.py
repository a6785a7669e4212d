"""One name that many callers ask for: at most one look-up of it is under way at a time."""

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future

from hasql.diagnostics import about
from hasql.dns.background import lookup_thread
from hasql.dns.known_name import Known, KnownName, Unknown
from hasql.dns.lookup import FoundRecords, NoRecords

__all__ = ("Search", "SharedName")

log = logging.getLogger("hasql")

#: Seconds by which a caller that waits for the end of a TTL may come too early, because uvloop's
#: timers fire early. Told that nothing has changed yet, it would wait for another second.
_EARLY = 0.01


class Search(ABC):
    """How a name is looked up. Its coroutines run in the look-up thread."""

    fallback: bool
    """Whether the system's resolver is asked when DNS fails and no old answer may serve."""

    @abstractmethod
    def nothing_known(self) -> KnownName:
        """Make the state of the name before its first look-up."""

    @abstractmethod
    async def in_dns(self, on_timeout: Callable[[], None]) -> FoundRecords | NoRecords:
        """Look the name up, and call `on_timeout` for each attempt that gets no answer in time."""

    @abstractmethod
    async def in_system(self) -> tuple[str, ...]:
        """Ask the system's resolver. Raises OSError."""


class SharedName:
    """A name, what is known of it, and the look-up under way, if any.

    Any thread may call any public method. None of them waits for a look-up.
    """

    def __init__(self, search: Search, clock: Callable[[], float]) -> None:
        #: Replaced by `forget`, so that an answer still on its way changes only the old object.
        self.known = search.nothing_known()
        #: Whether this process was forked since, and the name is not being looked up in it yet.
        self.forked = False
        self.clock = clock
        self._search = search
        self._lock = threading.RLock()
        self._in_flight: Future[Known | Unknown] | None = None
        self._followers = 0
        #: Whether the look-up thread is held for the followers.
        self._holding = False
        # Used only in the look-up thread.
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether only the last answer would be lost if this object were dropped."""
        return self._in_flight is None and not self._followers

    def outcome(self) -> Known | Unknown:
        """Return what is known now, for a caller that need not wait."""
        return self.known.outcome(self.clock())

    def begin(self, *, anew: bool = False) -> Future[Known | Unknown] | None:
        """Begin a look-up if one is due, and return the future to wait for.

        None: use what is known, because the last answer is fresh, or a look-up failed a moment ago,
        or look-ups fail and the old answer may serve. With `anew`, the caller waits even if an old
        answer may serve, and an answer that may not be kept is looked up again.
        """
        with self._lock:
            self._resume_after_fork()
            known, now = self.known, self.clock()
            if self._in_flight is None:
                if known.failures and known.until_due(now + _EARLY):
                    return None
                if known.is_fresh(now + _EARLY) and not (anew and known.asks_each_time):
                    return None
                self._start()
            if known.failures and known.may_serve(now) and not anew:
                return None
            return self._in_flight

    def follow(self) -> None:
        """Look the name up each time its TTL ends, until the matching `unfollow`."""
        with self._lock:
            self._followers += 1
            self._resume_after_fork()
            self._hold_thread()
            self.begin()

    def unfollow(self) -> None:
        """Stop looking the name up each time its TTL ends, if there is no other follower."""
        with self._lock:
            self._followers -= 1
            self._hold_thread()

    def expire(self) -> None:
        """Make the last answer count as old. A followed name is looked up again at once.

        That happens at most once a second.
        """
        with self._lock:
            self._resume_after_fork()
            self.known.expire(self.clock())
            if self._holding:
                lookup_thread.call(self._schedule)

    def forget(self) -> None:
        """Forget all that is known; if the name is followed, look it up again."""
        with self._lock:
            self.known = self._search.nothing_known()
            self._in_flight = None
            if self._holding:
                self._start()

    def after_fork(self) -> None:
        """Reset the state in a forked child, in which the parent's look-up does not run."""
        self._lock = threading.RLock()
        self._in_flight = self._timer = self._task = None
        self._holding = False
        self.forked = True

    def _resume_after_fork(self) -> None:
        if self.forked:
            self.forked = False
            if self._followers:
                self._hold_thread()
                self._start()

    def _hold_thread(self) -> None:
        # Decided by a flag, not by the count: the garbage collector may end another follower in the
        # middle of this method.
        if self._followers and not self._holding and not self.forked:
            self._holding = True
            lookup_thread.hold()
            lookup_thread.call(self._schedule)
        elif self._holding and not self._followers:
            self._holding = False
            lookup_thread.call(self._schedule)
            lookup_thread.release()

    def _start(self) -> None:
        future = Future[Known | Unknown]()
        # Marked as running, so that a waiter that gives up cannot cancel it for the others.
        future.set_running_or_notify_cancel()
        lookup_thread.hold()
        self._in_flight = future
        lookup_thread.call(self._begin_task, self.known, future)

    # In the look-up thread.

    def _begin_task(self, known: KnownName, future: Future[Known | Unknown]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(known, future))

    async def _run(self, known: KnownName, future: Future[Known | Unknown]) -> None:
        try:
            await self._look_up(known)
        except Exception as error:
            log.exception("%s could not be looked up", known.host, extra=_of("name_failed", known))
            with self._lock:
                known.failures += 1
                known.failed((f"an internal error: {error!r}",), self.clock())
        finally:
            with self._lock:
                outcome = known.outcome(self.clock())
                if self._in_flight is future:
                    self._in_flight = None
                self._schedule()
            future.set_result(outcome)
            lookup_thread.release()

    async def _look_up(self, known: KnownName) -> None:
        asked_at, failures = self.clock(), known.failures

        def on_timeout() -> None:
            # The look-up goes on. But once a failure is counted, callers that ask meanwhile are
            # given the old answer, if it may serve, and do not wait for the end.
            with self._lock:
                known.failures += 1

        result = await self._search.in_dns(on_timeout)
        with self._lock:
            if isinstance(result, FoundRecords):
                known.succeeded(result.replies, asked_at, whole=result.whole)
            else:
                if known.failures == failures:
                    known.failures += 1
                known.failed(result.reasons, self.clock())
            serves = known.may_serve(self.clock()) and not known.from_system
        if isinstance(result, FoundRecords):
            if failures:
                log.info(
                    "DNS answers for %s again; failures before that: %d",
                    known.host,
                    failures,
                    extra=_of("name_recovered", known),
                )
            return
        if not failures and serves:
            _tell_of_failure(known, result)
        if self._search.fallback and not serves:
            await self._ask_system(known, result.reasons)

    async def _ask_system(self, known: KnownName, reasons: tuple[str, ...]) -> None:
        try:
            addresses = await self._search.in_system()
        except OSError as error:
            with self._lock:
                known.failed((*reasons, f"the system's resolver: {error}"), self.clock())
            return
        if not known.from_system:
            log.warning(
                "%s now has its addresses from the system's resolver: %s",
                known.host,
                _text(reasons),
                extra=_of("name_from_system", known),
            )
        with self._lock:
            known.system_answered(addresses, self.clock())

    def _schedule(self) -> None:
        with self._lock:
            # This thread may be ending, and another one may have begun: that one gets its own call.
            if not lookup_thread.is_this:
                return
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._followers and self._in_flight is None:
                self._timer = asyncio.get_running_loop().call_later(
                    self.known.until_due(self.clock()), self._on_timer
                )

    def _on_timer(self) -> None:
        with self._lock:
            self._timer = None
            # The timer may fire a moment early, because it goes by the event loop's clock.
            if self._holding and self._in_flight is None:
                if self.known.until_due(self.clock()):
                    self._schedule()
                else:
                    self._start()


def _tell_of_failure(known: KnownName, result: NoRecords) -> None:
    log.warning(
        "%s; its last addresses, %s, stay in use for %g s or until DNS answers: %s",
        f"{known.host} suddenly has no records, which is suspicious"
        if result.empty
        else f"{known.host} cannot be looked up",
        ", ".join(known.addresses),
        known.grace_time,
        _text(result.reasons),
        extra=_of("name_failed", known),
    )


def _of(event: str, known: KnownName) -> dict[str, object]:
    """Make the `extra` of a log record about a name, which takes the place of the host."""
    return about(event) | {"host": known.host}


def _text(reasons: tuple[str, ...]) -> str:
    return "; ".join(dict.fromkeys(reasons))
