"""One name that many ask for: at most one look-up of it is under way, whoever wants to know."""

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

#: Seconds by which who waits for the end of a TTL may come too early, as uvloop's timers do. Told
#: that nothing has changed yet, they would wait for a second more.
_EARLY = 0.01


class Search(ABC):
    """How a name is looked up. Its coroutines run in the look-up thread."""

    fallback: bool
    """Whether the system's resolver is asked when DNS fails and no old answer may serve."""

    @abstractmethod
    def nothing_known(self) -> KnownName:
        """Make what is known of the name before it was ever looked up."""

    @abstractmethod
    async def in_dns(self, silent: Callable[[], None]) -> FoundRecords | NoRecords:
        """Look the name up, and call `silent` for each attempt that nobody answered in time."""

    @abstractmethod
    async def in_system(self) -> tuple[str, ...]:
        """Ask the system's resolver. Raises OSError."""


class SharedName:
    """A name, what is known of it, and the look-up under way if there is one.

    Any thread may call any method; none waits for a look-up.
    """

    def __init__(self, search: Search, clock: Callable[[], float]) -> None:
        #: Replaced when it is to be forgotten, so that an answer on its way finds the old one.
        self.known = search.nothing_known()
        #: Whether this is a child that was forked since, in which nobody looks it up again yet.
        self.forked = False
        self.clock = clock
        self._search = search
        self._lock = threading.RLock()
        self._in_flight: Future[Known | Unknown] | None = None
        self._followers = 0
        #: Whether the thread is held for the followers.
        self._holding = False
        # The look-up thread's alone.
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nobody would miss it but for what is known."""
        return self._in_flight is None and not self._followers

    def outcome(self) -> Known | Unknown:
        """Return what is known now, for who need not wait."""
        return self.known.outcome(self.clock())

    def begin(self, *, anew: bool = False) -> Future[Known | Unknown] | None:
        """Begin to look it up if it should be, and return what to wait for.

        None: what is known has to do, as it is fresh, failed a moment ago, or serves while it
        fails. With `anew` what is old does not, nor what may not be kept.
        """
        with self._lock:
            self._wake()
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
        """Look it up whenever its TTL ends, until the like `unfollow`."""
        with self._lock:
            self._followers += 1
            self._wake()
            self._hold_thread()
            self.begin()

    def unfollow(self) -> None:
        """Look it up no more by itself, if nobody else follows it."""
        with self._lock:
            self._followers -= 1
            self._hold_thread()

    def expire(self) -> None:
        """Let what is known be old; it is looked up again at once, but at most once a second."""
        with self._lock:
            self._wake()
            self.known.expire(self.clock())
            if self._holding:
                lookup_thread.call(self._schedule)

    def forget(self) -> None:
        """Know nothing; who follows it is told of the next answer."""
        with self._lock:
            self.known = self._search.nothing_known()
            self._in_flight = None
            if self._holding:
                self._start()

    def after_fork(self) -> None:
        """In a child: what the parent had under way is nobody's here."""
        self._lock = threading.RLock()
        self._in_flight = self._timer = self._task = None
        self._holding = False
        self.forked = True

    def _wake(self) -> None:
        if self.forked:
            self.forked = False
            if self._followers:
                self._hold_thread()
                self._start()

    def _hold_thread(self) -> None:
        # By a flag, as the collector may have another follower end in the midst of this.
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
        # Nobody may cancel it: whoever waits no more leaves it to the others.
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
                known.failed((f"an error of ours: {error!r}",), self.clock())
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

        def silent() -> None:
            # The look-up goes on, but whoever asks meanwhile should not wait for its end.
            with self._lock:
                known.failures += 1

        result = await self._search.in_dns(silent)
        with self._lock:
            if isinstance(result, FoundRecords):
                known.succeeded(result.replies, asked_at, whole=result.whole)
            else:
                if known.failures == failures:
                    known.failures += 1
                known.failed(result.said, self.clock())
            serves = known.may_serve(self.clock()) and not known.from_system
        if isinstance(result, FoundRecords):
            if failures:
                log.info(
                    "%s is answered again; failures before: %d",
                    known.host,
                    failures,
                    extra=_of("name_recovered", known),
                )
            return
        if not failures and serves:
            _tell_of_failure(known, result)
        if self._search.fallback and not serves:
            await self._ask_system(known, result.said)

    async def _ask_system(self, known: KnownName, said: tuple[str, ...]) -> None:
        try:
            addresses = await self._search.in_system()
        except OSError as error:
            with self._lock:
                known.failed((*said, f"the system's resolver: {error}"), self.clock())
            return
        if not known.from_system:
            log.warning(
                "%s has its addresses from the system's resolver: %s",
                known.host,
                _text(said),
                extra=_of("name_from_system", known),
            )
        with self._lock:
            known.system_answered(addresses, self.clock())

    def _schedule(self) -> None:
        with self._lock:
            # The thread may be ending, and another one have begun: that one has its own call.
            if not lookup_thread.is_this:
                return
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._followers and self._in_flight is None:
                self._timer = asyncio.get_running_loop().call_later(
                    self.known.until_due(self.clock()), self._be_due
                )

    def _be_due(self) -> None:
        with self._lock:
            self._timer = None
            # By a clock that is not quite the event loop's it may be a moment too early.
            if self._holding and self._in_flight is None:
                if self.known.until_due(self.clock()):
                    self._schedule()
                else:
                    self._start()


def _tell_of_failure(known: KnownName, result: NoRecords) -> None:
    log.warning(
        "%s; what it was last, %s, serves on for %g s or until it is answered well: %s",
        f"{known.host} is suddenly without records, which is suspicious"
        if result.empty
        else f"{known.host} cannot be looked up",
        ", ".join(known.addresses),
        known.window,
        _text(result.said),
        extra=_of("name_failed", known),
    )


def _of(event: str, known: KnownName) -> dict[str, object]:
    """Make the `extra` of a record on a name, which stands where other records have a host."""
    return about(event) | {"host": known.host}


def _text(said: tuple[str, ...]) -> str:
    return "; ".join(dict.fromkeys(said))
