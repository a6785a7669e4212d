"""Waiting for a state: until enough hosts can serve, or each has been probed once more."""

import asyncio
from collections.abc import Callable
from typing import Generic

from hasql._manager.discovering import Discovering
from hasql._manager.options import Options
from hasql._manager.routing_state import RoutingState
from hasql.cluster.checks import check_count, check_seconds
from hasql.driver import ConnT, Driver, Failure, PoolT
from hasql.errors import ConfigurationError, NotAvailableError, PoolManagerClosedError

__all__ = ("StateWaits",)

#: Seconds that entering a manager waits for a first host; `ready` waits as long by default.
_START_TIMEOUT = 10.0


class StateWaits(Generic[PoolT, ConnT]):
    """Makes callers wait for a state of the routing, and tells them why it was not reached."""

    def __init__(
        self,
        driver: Driver[PoolT, ConnT],
        options: Options,
        routing: RoutingState[PoolT, ConnT],
        discovering: Discovering,
    ) -> None:
        self._driver = driver
        self._clock = options.clock
        self._hide = options.hide
        self._routing = routing
        self._discovering = discovering
        #: Ends with the next news; all waiting callers then look again.
        self._change: asyncio.Future[None] | None = None
        routing.on_change = self._wake

    def _wake(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    async def next_change(self) -> None:
        """Wait until something has been learnt."""
        if self._change is None or self._change.done():
            self._change = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._change)

    async def until(self, holds: Callable[[], bool], timeout: float | None, what: str) -> None:
        """Wait until `holds` is true of the routing state.

        Raises NotAvailableError after `timeout` seconds, and PoolManagerClosedError on closing.
        """
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                while not holds():
                    if not self._routing.serves:
                        raise PoolManagerClosedError("the pool manager was closed")
                    await self.next_change()
        except TimeoutError:
            if limit.expired():
                raise self.not_available(what) from None
            raise

    async def ready(
        self, masters_count: int | None, replicas_count: int | None, timeout: float
    ) -> None:
        """Wait as `ready` of a pool manager does."""
        if (masters_count is None) != (replicas_count is None):
            msg = "ready() takes both masters_count and replicas_count, or neither"
            raise ConfigurationError(msg)
        seconds = check_seconds("timeout", timeout)
        if masters_count is None or replicas_count is None:
            await self.all_ready(seconds)
            return
        masters = check_count("masters_count", masters_count)
        replicas = check_count("replicas_count", replicas_count)
        await self._there(
            f"{masters} masters and {replicas} replicas",
            lambda: (
                len(self._routing.masters) >= masters and len(self._routing.replicas) >= replicas
            ),
            seconds,
        )

    async def all_ready(self, timeout: float | None = None) -> None:
        """Wait until all hosts answer."""
        await self._there("all hosts", self._all_answer, timeout)

    async def masters_ready(self, masters_count: int) -> None:
        """Wait, however long it takes, until this many masters are in routing."""
        count = check_count("masters_count", masters_count)
        await self._there(f"{count} masters", lambda: len(self._routing.masters) >= count, None)

    async def replicas_ready(self, replicas_count: int) -> None:
        """Wait, however long it takes, until this many replicas are in routing."""
        count = check_count("replicas_count", replicas_count)
        await self._there(f"{count} replicas", lambda: len(self._routing.replicas) >= count, None)

    async def started(self) -> None:
        """Wait for a first host, as entering a manager does."""
        await self._there(
            "a host that can serve",
            lambda: bool(self._routing.masters or self._routing.replicas),
            _START_TIMEOUT,
        )

    def _all_answer(self) -> bool:
        topology, nodes = self._routing.topology, self._routing.nodes
        return topology.first_round_over and all(
            state.answers and (state.exclusion is not None or nodes[state.host].in_routing)
            for state in topology.nodes
            if not state.leaving
        )

    async def _there(self, what: str, holds: Callable[[], bool], timeout: float | None) -> None:
        await self.until(
            lambda: holds() or self.raise_if_all_refuse(),
            timeout,
            f"{what} not available within {timeout} s",
        )

    def not_available(self, what: str) -> NotAvailableError:
        """Make the error that says what was not available, and how every host is doing."""
        now = self._clock()
        lines = [f"{what}; hosts:"]
        with self._routing.guard:
            for state in self._routing.topology.nodes:
                node = self._routing.nodes[state.host]
                lines.append(f"  {state.describe(now)}, {node.describe(now)}")
        if len(lines) == 1:
            lines.append("  none")
        if trouble := self._discovering.describe():
            lines.append(f"discovery: {trouble}")
        return NotAvailableError(self._hide("\n".join(lines)))

    def raise_if_all_refuse(self) -> bool:
        """Raise what waiting cannot cure: our arguments are wrong, or every host refuses us."""
        nodes = self._routing.nodes
        states = [state for state in self._routing.topology.nodes if not state.leaving]
        errors = [nodes[s.host].refusal or (s.error if s.refused else None) for s in states]
        refusals = [error for error in errors if error]
        ours = [x for x in refusals if self._driver.failure(x) is Failure.MISCONFIGURED]
        if ours or 0 < len(refusals) == len(errors):
            raise (ours or refusals)[0]
        return False

    async def until_probed_anew(self, timeout: float) -> None:
        """Wait until each host has published the outcome of a probe begun after this call."""
        seconds, now = check_seconds("timeout", timeout), self._clock()
        self._routing.monitors.probe_all()
        await self.until(
            lambda: all(state.began > now for state in self._routing.topology.nodes),
            seconds,
            "not every host's probe ended in time",
        )
