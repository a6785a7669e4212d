"""Waiting for a state: until so many hosts can serve, or each has been probed once more."""

import asyncio
from collections.abc import Callable
from typing import Generic

from hasql._manager.discovering import Discovering
from hasql._manager.options import Options
from hasql._manager.routing_state import RoutingState
from hasql.driver import ConnT, Driver, Failure, PoolT
from hasql.errors import NotAvailableError, PoolManagerClosedError

__all__ = ("StateWaits",)


class StateWaits(Generic[PoolT, ConnT]):
    """Who waits for what the routing state is to become, and what they are told if it does not."""

    def __init__(
        self,
        driver: Driver[PoolT, ConnT],
        options: Options,
        routing: RoutingState[PoolT, ConnT],
        discovering: Discovering,
    ) -> None:
        self._driver = driver
        self._clock = options.clock
        self._hide = options.dsn.hide
        self._routing = routing
        self._discovering = discovering
        #: Ends with the next news; all who wait look again then.
        self._news: asyncio.Future[None] | None = None
        routing.on_news = self._wake

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

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
                    if self._news is None or self._news.done():
                        self._news = asyncio.get_running_loop().create_future()
                    await asyncio.shield(self._news)
        except TimeoutError:
            if limit.expired():
                raise self.not_available(what) from None
            raise

    def not_available(self, what: str) -> NotAvailableError:
        """Make the error that says what was not to be had, and where every host stands."""
        now = self._clock()
        lines = [f"{what}; hosts:"]
        for state in self._routing.topology.nodes:
            node = self._routing.nodes[state.host]
            lines.append(f"  {state.describe(now)}, {node.describe(now)}")
        if len(lines) == 1:
            lines.append("  none")
        if trouble := self._discovering.describe():
            lines.append(f"discovery: {trouble}")
        return NotAvailableError(self._hide("\n".join(lines)))

    def raise_if_all_refuse(self) -> bool:
        """Raise what waiting does not mend: our own arguments, or that every host refuses us."""
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
        now = self._clock()
        self._routing.monitors.probe_all()
        await self.until(
            lambda: all(state.began > now for state in self._routing.topology.nodes),
            timeout,
            "not every host's probe ended in time",
        )
