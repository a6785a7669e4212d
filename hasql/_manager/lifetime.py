"""The lifetime of one manager: it starts at its first use, and is closed once."""

import asyncio
import logging
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Generic

from hasql._leasing.book import LeaseBook
from hasql._leasing.lease_infos import infos_of
from hasql._leasing.loop_binding import LoopBinding
from hasql._manager.discovering import Discovering
from hasql._manager.discovery_queries import DiscoveryQueries
from hasql._manager.guarded import log_soon
from hasql._manager.options import Options
from hasql._manager.routing_state import RoutingState
from hasql._probing.monitors import end_tasks
from hasql._routing.node import Node
from hasql._routing.router import Router
from hasql.cluster.discovered import Discovered
from hasql.cluster.state import Health
from hasql.cluster.topology import FirstRoundOver
from hasql.diagnostics import LeaseInfo, about
from hasql.driver import ConnT, PoolT
from hasql.errors import PoolManagerClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Lifetime",)

log = logging.getLogger("hasql")

#: Seconds a starting manager gives its hosts before it routes to the masters it has met.
_FIRST_ROUND = 0.1
#: Seconds that pools have for closing politely, even if the caller would wait for longer.
_CLOSE_TIMEOUT = 1.0


class Lifetime(Generic[PoolT, ConnT]):
    """Starts and ends what a manager runs, and what each of its hosts needs."""

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        options: Options,
        discovering: Discovering,
        queries: DiscoveryQueries[PoolT, ConnT],
        routing: RoutingState[PoolT, ConnT],
        router: Router[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        binding: LoopBinding,
    ) -> None:
        self._options = options
        self._clock = options.clock
        self._discovering, self._queries = discovering, queries
        discovering.on_answer = self._take_over
        routing.on_masters = discovering.note_masters
        routing.on_gone = self._retire
        #: Called when closing begins, so that no acquire waits to be admitted any more.
        self.on_closing = _nothing
        self._routing = routing
        self._router = router
        self._book = book
        self._binding = binding
        #: Whether closing has begun, and whether it has ended.
        self.closing = False
        self.closed = False
        self._terminating = False
        #: Tells whether the outcome of some commit is being found out.
        self.finds_commits: Callable[[], bool] = bool
        #: Called when nothing is learnt any more, so that nothing waits for an answer.
        self.on_closed: Callable[[], object] = _nothing
        #: Called when the manager starts.
        self.on_start: Callable[[], object] = _nothing
        #: Returns the tasks that other parts have under way for the manager.
        self.more_tasks: Callable[[], list[asyncio.Task[None]]] = list
        self._discovery: asyncio.Task[None] | None = None
        self._first_round: asyncio.TimerHandle | None = None
        #: Nodes whose hosts have left, each with the task that ends what is left of it.
        self._retired: dict[Node[PoolT, ConnT], asyncio.Task[None]] = {}

    @property
    def started(self) -> bool:
        """Whether the manager has begun to probe."""
        return self._binding.loop is not None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the manager was started in."""
        loop = self._binding.loop
        assert loop is not None  # noqa: S101  # only asked for once it has started
        return loop

    def is_over(self) -> bool:
        """Tell whether the manager is closed, or the program is about to end."""
        return self.closed or self._routing.monitors.are_cancelled()

    # Starting

    def ensure_started(self) -> None:
        """Start unless started; called on every use, from the loop that uses it.

        Raises WrongEventLoopError, and PoolManagerClosedError once closing.
        """
        if self.closing and not self._binding.inherited:
            raise PoolManagerClosedError("the pool manager is closed")
        self._binding.check()
        if self._binding.loop is None:
            # In an empty context: what starts here runs for as long as the manager, and would keep
            # the context of the first request, which would then show in every log record.
            Context().run(self._start, self._binding.bind())

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._take_over(tuple(map(Discovered, self._options.dsn.hosts)))
        self._discovery = loop.create_task(self._discovering.run())
        self.on_start()

    # Hosts that come and go

    def _take_over(self, hosts: tuple[Discovered, ...]) -> None:
        """Use these hosts, and no others once those that leave have left."""
        if self.closing:
            return
        if hosts and self._first_round is None:
            self._first_round = self.loop.call_later(
                _FIRST_ROUND, lambda: self._routing.publish(FirstRoundOver(self._clock()))
            )
        self._routing.set_hosts(hosts)

    def _retire(self, node: Node[PoolT, ConnT]) -> None:
        """Stop probing a host that has left; it may come back at once, as another node."""
        log_soon(log.info, "%s is no longer a host", node.host, "host_gone")
        tasks = self._routing.monitors.stop(node.host) + self._routing.openings.cancel(node)
        if self._routing.names is not None:
            tasks += self._routing.names.stop(node.host)
        task = self.loop.create_task(self._end(node, tasks))
        if not task.done():  # an eager task with nothing to wait for has ended already
            self._retired[node] = task

    async def _end(self, node: Node[PoolT, ConnT], tasks: list[asyncio.Task[None]]) -> None:
        """End the tasks of a node that has nothing lent any more, and close its pool."""
        try:
            await end_tasks(tasks)
        finally:
            self._retired.pop(node, None)
            if node.pool is not None:
                node.pool.terminate()

    # Closing

    def refuse(self) -> None:
        """Lend nothing any more, and let no acquire wait for a connection."""
        self.closing = True
        self.on_closing()
        self._routing.stop_serving()
        self._discovering.cancel()

    async def drain(self, timeout: float) -> None:
        """Wait, at most so many seconds, until all leases are back, or until told to terminate.

        Also wait until every unit of work that has lost the answer to its COMMIT knows the outcome.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while (vacancy := self._next_vacancy()) is not None:
                    await asyncio.shield(vacancy)

    def _next_vacancy(self) -> "asyncio.Future[None] | None":
        """Return what to wait for while something is in use. None: nothing is."""
        with self._routing.guard:
            nodes = self._routing.all_nodes()
            in_use = len(self._book) > 0 or any(node.in_flight for node in nodes)
            in_use = in_use or self.finds_commits()
            return self._router.next_vacancy() if in_use and not self._terminating else None

    def leases_out(self) -> tuple[LeaseInfo, ...]:
        """Return the leases that closing would break now, the oldest first; none afterwards."""
        if self._terminating:
            return ()
        with self._routing.guard:
            return tuple(infos_of(self._book.all(), self._clock()))

    async def stop(self, timeout: float) -> None:
        """Stop probing, then close the pools: politely within so many seconds, else abruptly."""
        deadline = self._clock() + timeout
        try:
            if self._first_round is not None:
                self._first_round.cancel()
            others = [*self._retired.values(), *self._routing.openings.tasks()]
            others += [*self._routing.warm_ups.tasks(), *self.more_tasks()]
            if self._discovery is not None:
                others.append(self._discovery)
            if self._routing.names is not None:
                others += self._routing.names.stop_all()
            await asyncio.gather(self._routing.monitors.end(), end_tasks(others))
            deadline = min(deadline, self._clock() + _CLOSE_TIMEOUT)
            nodes = self._routing.all_nodes()
            await asyncio.gather(*(self._close(node, deadline) for node in nodes))
        finally:
            self._queries.close()
            self.break_all()
            self._routing.stop_learning()
            self.on_closed()
            self.closed = True

    def break_all(self) -> None:
        """Break every connection there is, at once."""
        self._terminating = True
        with self._routing.guard:
            self._book.abort()
            for node in (*self._routing.all_nodes(), *self._retired):
                if node.pool is not None:
                    node.pool.terminate()
        self._router.wake_drain()

    def close_unstarted(self) -> None:
        """Close a manager that was never started: there is nothing to wait for."""
        self.refuse()
        self.closed = True

    async def _close(self, node: Node[PoolT, ConnT], deadline: float) -> None:
        state = self._routing.topology.node(node.host)
        polite = state is not None and state.health is Health.UP and state.exclusion is None
        if node.pool is None:
            return
        seconds = deadline - self._clock()
        if polite and not node.in_flight and seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await node.pool.close()
            except Exception as error:  # noqa: BLE001  # terminated below in any case
                told = self._options.hide(repr(error))
                extra = about("close_failed", host=node.host)
                log.debug("%s: closing failed: %s", node.host, told, extra=extra)
        node.pool.terminate()


def _nothing() -> None:
    pass
