"""The watch: the monitors of all nodes, and the tasks they run in."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic

from hasql._manager.options import Options
from hasql._probing.monitor import Headquarters, Monitor
from hasql._probing.schedule import Bursts, Evidence
from hasql._routing.node import Node
from hasql.cluster.topology import Failed
from hasql.driver import ConnT, Driver, PoolT

if TYPE_CHECKING:
    from hasql.cluster.dsn import HostSpec

__all__ = ("Watch",)

log = logging.getLogger("hasql")

#: Seconds in which tasks have to end that are cancelled.
_LAST_WORDS = 1.0


@dataclass(frozen=True, slots=True)
class _Watched(Generic[PoolT, ConnT]):
    """The monitor of a node and the task it runs in."""

    monitor: Monitor[PoolT, ConnT]
    task: asyncio.Task[None]


class Watch(Generic[PoolT, ConnT]):
    """Watches nodes from when they come until they have gone."""

    def __init__(
        self,
        driver: Driver[PoolT, ConnT],
        options: Options,
        headquarters: Headquarters[ConnT],
        retired: Callable[[Node[PoolT, ConnT]], Coroutine[Any, Any, None]],
    ) -> None:
        self._driver = driver
        self._options = options
        self._headquarters = headquarters
        self._retired = retired
        self._bursts = Bursts()
        self._watched: dict[HostSpec, _Watched[PoolT, ConnT]] = {}
        #: Nodes that are no hosts any more and have leases out still.
        self.leaving: dict[Node[PoolT, ConnT], asyncio.Task[None]] = {}

    def begin(self, node: Node[PoolT, ConnT]) -> None:
        """Watch a node, unless it is watched already."""
        if node.host in self._watched:
            return
        monitor = Monitor(node, self._driver, self._options, self._headquarters, self._bursts)
        task = asyncio.get_running_loop().create_task(self._run(node, monitor))
        self._watched[node.host] = _Watched(monitor, task)

    def nudge(self, concerned: "HostSpec | None" = None) -> None:
        """Have every node probed now; a lease on the one `concerned` has caused it, if any has."""
        for host, watched in self._watched.items():
            watched.monitor.nudge(concerned=host == concerned)

    def follow(self, host: "HostSpec | None" = None) -> None:
        """Have every node probed often for a while: something has changed.

        With a `host` only its health, but for the master's.
        """
        if host is not None and not self._headquarters.is_urgent():
            self.signal(host, Evidence.HEALTH)
            return
        self._bursts.learned()
        if self._bursts.begin():
            self.nudge()

    def signal(self, host: "HostSpec", evidence: Evidence | None = None) -> bool:
        """Take note of what may be a change on a host: what a lease has met, or `evidence`.

        That begins a burst, or costs this host a probe. Return whether it is probed at once.
        """
        watched = self._watched.get(host)
        if watched is None:
            return False
        if evidence is not None:
            if not self._bursts.begin_by_evidence(host, evidence):
                watched.monitor.nudge_again()
                return False
            if evidence is not Evidence.HEALTH:  # which a probe has just found
                watched.monitor.press()
            self.nudge()
            return True
        if not self._bursts.begin_by_hint(urgent=self._headquarters.is_urgent()):
            return watched.monitor.hint()
        self.nudge(host)
        return True

    def look_afresh(self, host: "HostSpec") -> None:
        """Have a node asked over a new connection as well."""
        if host in self._watched:
            self._watched[host].monitor.look_afresh()

    def retire(self, node: Node[PoolT, ConnT]) -> None:
        """Stop watching a node; close its pool once `retired` says that it may be closed."""
        task = self._watched.pop(node.host).task
        self._bursts.forget(node.host)
        self.leaving[node] = asyncio.get_running_loop().create_task(self._retire(node, task))

    def is_cut_short(self) -> bool:
        """Tell whether the tasks were cancelled from outside, as by asyncio.run() at its end."""
        # All of them: a time limit within one cancels that one for a moment.
        tasks = [watched.task for watched in self._watched.values()]
        return bool(tasks) and all(task.cancelling() for task in tasks)

    async def end(self, *others: asyncio.Task[None] | None) -> None:
        """Stop watching everything, and end other tasks along with it."""
        tasks = [watched.task for watched in self._watched.values()]
        tasks += [*self.leaving.values(), *(task for task in others if task is not None)]
        self._watched.clear()
        await _end(tasks)

    async def _run(self, node: Node[PoolT, ConnT], monitor: Monitor[PoolT, ConnT]) -> None:
        loop = asyncio.get_running_loop()
        try:
            while not self._headquarters.inherited:
                try:
                    await monitor.run()
                except Exception as error:
                    if loop.is_closed():
                        return  # it was closed under the manager, which is being collected
                    # A defect of ours or of the user's hooks must not leave a host unwatched.
                    log.exception("%s: its monitor has failed and begins anew", node.host)
                    self._headquarters.publish(Failed(node.host, monotonic(), monotonic(), error))
                    await asyncio.sleep(self._options.refresh_delay)
        except asyncio.CancelledError:
            # From outside, as by asyncio.run() at its end: there is no loop to say goodbye in, so
            # nothing may be left open. A loop that was closed, without that, closes nothing more.
            watched = self._watched.get(node.host)
            own = watched is not None and watched.task is asyncio.current_task()
            if own and node.pool and not self._headquarters.inherited:
                node.pool.terminate()
            raise

    async def _retire(self, node: Node[PoolT, ConnT], task: asyncio.Task[None]) -> None:
        try:
            await _end([task])
            await self._retired(node)
        finally:
            self.leaving.pop(node, None)
            if node.pool is not None:
                node.pool.terminate()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        # A driver that goes on with a silent server all the same is left behind.
        await asyncio.wait(tasks, timeout=_LAST_WORDS)
