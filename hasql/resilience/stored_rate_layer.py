"""The rate limit that a storage keeps, as a layer around leases."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from sys import maxsize
from typing import TYPE_CHECKING, Any, Final

from hasql._leasing.layers import Layer
from hasql._leasing.lease import Lease
from hasql._routing.waiters import Waiters
from hasql.diagnostics import about
from hasql.errors import MissingExtraError, RateLimitedError
from hasql.metrics import RateLimitMetrics
from hasql.resilience.rate_limit import IN_MEMORY, RateLimit
from hasql.resilience.storage_access import StorageAccess
from hasql.resilience.token_waits import TokenWaits

if TYPE_CHECKING:
    from hasql.resilience.stored_rates import TaskRates, ThreadRates

__all__ = ("StoredRateLayer",)

log = logging.getLogger("hasql")

#: Seconds that the storage may take to answer; and seconds for which it is not asked once it has
#: failed.
_STORAGE_TIMEOUT: Final = 0.5
_PAUSE: Final = 1.0
#: The storage has half of the time that the acquire has left, but at least `_MOMENT` seconds. If it
#: had `_ENOUGH` seconds or more and did not answer, it has failed. If it had less, the deadline was
#: too close for that conclusion.
_MOMENT, _ENOUGH = 0.02, 0.1


class StoredRateLayer(Layer):
    """A rate limit around the leases of one manager, kept by the `limits` library.

    Args:
        rate_limit: The options.
        new_waiters: Makes the waiters, for tasks or for threads.
        clock: The manager's clock.
        hide: Masks passwords in a text.

    Raises MissingExtraError without the library.
    """

    def __init__(
        self,
        rate_limit: RateLimit,
        new_waiters: Callable[[], Waiters[Any, None]],
        clock: Callable[[], float],
        hide: Callable[[str], str],
    ) -> None:
        try:
            from hasql.resilience import stored_rates  # noqa: PLC0415  # limits is an extra
        except ImportError as error:
            msg = (
                f"a RateLimit with strategy={rate_limit.strategy!r} needs limits and redis: "
                "pip install 'hasql[limits]'"
            )
            raise MissingExtraError(msg) from error
        self._library = stored_rates
        self._rate_limit = rate_limit
        self._waits = TokenWaits(rate_limit, new_waiters(), clock)
        self._clock = clock
        self._hide = hide
        # Made by the first acquire, because the storages in memory start threads or timers.
        self._of_tasks: TaskRates | None = None
        self._of_threads: ThreadRates | None = None
        count = maxsize if rate_limit.storage == IN_MEMORY else stored_rates.CONNECTIONS
        self._access = StorageAccess(count, new_waiters(), clock)

    def enter(self, lease: Lease[Any, Any], deadline: float) -> Awaitable[None] | None:
        """Take a token for a task's acquire, after waiting for one if necessary."""
        del lease
        return self._take(self._waits.key(), deadline)

    async def _take(self, key: str, deadline: float) -> None:
        waited = False
        while seconds := await self._ask(key, deadline):
            self._check(key, seconds, deadline, waited=waited)
            waited = True
            await self._waits.wait(seconds)

    async def _ask(self, key: str, deadline: float) -> float:
        """Return in how many seconds to ask for a token again; 0: the acquire is let in."""
        access, began = self._access, self._clock()
        if access.pause:
            return self._allow_or_refuse()
        turn = access.new(deadline)
        try:
            waiter = access.take(turn, deadline)
            if waiter is not None:
                try:
                    await waiter
                except TimeoutError as error:
                    return self._handle_failure(error, began, 0.0, waited=True)
                if (known := self._known_wait(key)) is not None:
                    return known
            limit = min(_STORAGE_TIMEOUT, max(_MOMENT, (deadline - self._clock()) / 2))
            try:
                async with asyncio.timeout(limit):
                    seconds = await self._rates_of_tasks().take(key)
            except Exception as error:  # noqa: BLE001  # whatever a client of a storage raises
                return self._handle_failure(error, began, limit, waited=waiter is not None)
            access.note_answer(key, seconds)
            return seconds
        finally:
            access.give_back(turn)

    def enter_in_thread(self, lease: Lease[Any, Any], deadline: float) -> None:
        """Take a token for a thread's acquire, after waiting for one if necessary."""
        del lease
        key, waited = self._waits.key(), False
        while seconds := self._ask_in_thread(key, deadline):
            self._check(key, seconds, deadline, waited=waited)
            waited = True
            self._waits.wait_in_thread(seconds)

    def _ask_in_thread(self, key: str, deadline: float) -> float:
        access, began = self._access, self._clock()
        if access.pause:
            return self._allow_or_refuse()
        turn = access.new(deadline)
        try:
            waiter = access.take(turn, deadline)
            if waiter is not None:
                if not waiter.ended_within(deadline - self._clock()):
                    return self._handle_failure(TimeoutError(), began, 0.0, waited=True)
                waiter.result()
                if (known := self._known_wait(key)) is not None:
                    return known
            try:
                seconds = self._rates_of_threads().take(key)
            except Exception as error:  # noqa: BLE001  # as above
                return self._handle_failure(
                    error, began, _STORAGE_TIMEOUT, waited=waiter is not None
                )
            access.note_answer(key, seconds)
            return seconds
        finally:
            try:
                access.give_back(turn)
            except BaseException:  # an interrupt, perhaps before the call has begun
                access.give_back(turn)
                raise

    def _known_wait(self, key: str) -> float | None:
        """Return what `_ask` returns if that is known without asking the storage, else None.

        Called when an acquire that has waited gets its turn.
        """
        if self._access.pause:
            return self._allow_or_refuse()
        return self._access.known_wait(key) or None

    def _check(self, key: str, seconds: float, deadline: float, *, waited: bool) -> None:
        """Refuse an acquire whose next token comes too late."""
        longest_wait = self._waits.longest_wait(deadline)
        with self._waits.lock:
            if seconds > longest_wait:
                raise self._waits.refusal(key, seconds)
            self._waits.waits += not waited

    # The storage

    def _rates_of_tasks(self) -> "TaskRates":
        if self._of_tasks is None:
            self._of_tasks = self._library.TaskRates(self._rate_limit, _STORAGE_TIMEOUT)
        return self._of_tasks

    def _rates_of_threads(self) -> "ThreadRates":
        if self._of_threads is None:
            with self._waits.lock:
                if self._of_threads is None:
                    self._of_threads = self._library.ThreadRates(self._rate_limit, _STORAGE_TIMEOUT)
        return self._of_threads

    def _handle_failure(
        self, error: Exception, began: float, limit: float, *, waited: bool
    ) -> float:
        """Decide about an acquire that got no answer from the storage in `limit` seconds.

        The acquire is let in, or RateLimitedError is raised, as `on_storage_error` says.
        RateLimitedError is also raised if the acquire has waited for its turn in vain while the
        storage answered others.
        """
        asked = self._clock() - limit
        silent = limit >= _ENOUGH and not self._access.answered_since(asked)
        if silent or not isinstance(error, TimeoutError):
            self._note_failure(error)
        elif waited and self._access.answered_since(began):
            raise self._waits.too_many(self._shown(), self._clock() - began)
        return self._allow_or_refuse()

    def _note_failure(self, error: Exception) -> None:
        """Stop asking a failing storage for a while: else each acquire would wait for it."""
        with self._waits.lock:
            first = not self._waits.storage_errors
            self._waits.storage_errors += 1
        self._access.begin_pause(_PAUSE)
        told = self._hide(f"{type(error).__name__}: {error}")
        extra, shown = about("rate_storage_failed"), self._shown()
        if first:
            log.warning("the storage of the rate limit fails (%s): %s", shown, told, extra=extra)
        else:
            log.debug("the storage of the rate limit fails again: %s", told, extra=extra)

    def _allow_or_refuse(self) -> float:
        """Let an acquire through, or refuse it, as `on_storage_error` says."""
        if self._rate_limit.on_storage_error == "allow":
            return 0.0
        with self._waits.lock:
            self._waits.refusals += 1
        seconds = self._access.pause
        msg = (
            f"the storage of the rate limit fails ({self._shown()}), and on_storage_error is "
            f"'refuse'; it is asked again in {seconds:.3f} s"
        )
        raise RateLimitedError(msg, seconds)

    def _shown(self) -> str:
        return self._rate_limit.shown_storage

    def close(self) -> None:
        """Refuse all acquires from now on, and end all waits."""
        self._waits.close()
        self._access.close()

    async def end(self) -> None:
        """Close the connections to the storage."""
        for rates in (self._of_tasks, self._of_threads):
            if rates is not None:
                await rates.close()

    def measure(self) -> RateLimitMetrics:
        """Take a snapshot."""
        return self._waits.measure(0, self._access.waiting)
