"""Opens pools: each once its host has answered, and again if that fails."""

import asyncio
from collections.abc import Callable, Mapping
from contextvars import Context
from functools import partial
from typing import Any, Generic

from hasql._routing.node import Node
from hasql._routing.observations import PoolOpened, PoolRefused, RoutingObservation
from hasql.cluster.host import HostSpec
from hasql.driver import ConnT, Driver, Failure, PoolT
from hasql.driver.deadline import cancellations
from hasql.driver.judgement import judge_error

__all__ = ("PoolOpenings",)

#: Seconds that opening a pool may take. Its host has just answered, so it is not silent, but a
#: loaded server may need time for the logins of many connections.
_TIMEOUT = 10.0
#: Seconds until a pool that could not be opened is tried again, doubling to refresh_delay.
_FIRST_PAUSE = 0.02
#: After so many equal failures in a row, a failing statement is taken for one that waiting does not
#: help.
_FAILURES_TO_BE_SURE = 3


class _Attempts:
    """The state of the attempts to open the pool of one node."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.pause = _FIRST_PAUSE / 2
        #: When the next attempt may begin, by the clock.
        self.next_at = float("-inf")
        #: How the last attempt failed, and how often in a row attempts have failed in this way.
        self.failure, self.same_failures = "", 0


class PoolOpenings(Generic[PoolT, ConnT]):
    """Opens the pools of one manager, while the probes go on."""

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        driver: Driver[PoolT, ConnT],
        kwargs: Mapping[str, Any],
        refresh_delay: float,
        clock: Callable[[], float],
        publish: Callable[[RoutingObservation], None],
        report: Callable[[Node[PoolT, ConnT], ConnT, BaseException], None],
        probe_by: Callable[[HostSpec, float], None],
    ) -> None:
        self._driver = driver
        #: The arguments for making pools.
        self.kwargs = kwargs
        self._refresh_delay = refresh_delay
        self._clock = clock
        self._publish = publish
        self._report = report
        self._probe_by = probe_by
        self._attempts: dict[Node[PoolT, ConnT], _Attempts] = {}

    def host_answered(self, node: Node[PoolT, ConnT]) -> None:
        """Begin to open a node's pool, unless that is under way or has just failed."""
        attempts = self._attempts.setdefault(node, _Attempts())
        if attempts.task is None and self._clock() >= attempts.next_at:
            # In an empty context: this may run within a call of the application, to which a host
            # has answered.
            opening, context = self._open(node, attempts), Context()
            task = asyncio.get_running_loop().create_task(opening, context=context)
            if not task.done():  # an eager task may have failed at once
                attempts.task = task

    def cancel(self, node: Node[PoolT, ConnT]) -> list[asyncio.Task[None]]:
        """Give up opening a node's pool; return the task that has to end for that, if any."""
        attempts = self._attempts.pop(node, None)
        if attempts is None or attempts.task is None:
            return []
        attempts.task.cancel()
        return [attempts.task]

    def give_up(self, node: Node[PoolT, ConnT]) -> None:
        """End an opening that is under way; if none is, what is known of failures is kept."""
        attempts = self._attempts.get(node)
        if attempts is not None and attempts.task is not None:
            self.cancel(node)

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the tasks under way."""
        return [x.task for x in self._attempts.values() if x.task is not None]

    async def _open(self, node: Node[PoolT, ConnT], attempts: _Attempts) -> None:
        opening = asyncio.timeout(_TIMEOUT)
        try:
            async with opening:
                report = partial(self._report, node)
                pool = await self._driver.open(node.endpoint, self.kwargs, report)
        except asyncio.CancelledError:
            attempts.task = None  # a hook may have raised it, and the next answer tries again
            raise
        except Exception as error:  # noqa: BLE001  # whatever failed, the pool cannot be opened now
            attempts.task = None
            late = TimeoutError(f"opening the pool took longer than {_TIMEOUT:g} s")
            self._failed(node, attempts, late if opening.expired() else error)
            return
        if self._attempts.get(node) is not attempts or cancellations():
            attempts.task = None
            # The pool was given up meanwhile, or the program ends, and the driver may have
            # swallowed the cancellation.
            pool.terminate()
            raise asyncio.CancelledError
        self._attempts.pop(node, None)
        node.refusal = None
        self._publish(PoolOpened(node.host, pool))

    def _failed(self, node: Node[PoolT, ConnT], attempts: _Attempts, error: Exception) -> None:
        node.failed(error)
        attempts.pause = min(2 * attempts.pause, self._refresh_delay)
        attempts.next_at = self._clock() + attempts.pause
        failure = judge_error(self._driver, error)
        refused = failure.lasts or isinstance(error, TypeError | ValueError)
        # But a statement may be one of the application's own, in a hook, and may work later.
        same = attempts.same_failures + 1 if str(error) == attempts.failure else 1
        attempts.failure, attempts.same_failures = str(error), same
        if failure is Failure.STATEMENT and same < _FAILURES_TO_BE_SURE:
            refused = False
        before, node.refusal = node.refusal, error if refused else None
        if refused and before is None:  # once only, because probes go on being answered
            self._publish(PoolRefused(node.host, error))
        self._probe_by(node.host, attempts.next_at)
