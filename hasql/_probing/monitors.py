"""The monitors of all hosts, and the tasks they run in."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from hasql._probing.cluster_view import ClusterView
from hasql._probing.monitor import Monitor
from hasql._probing.options import ProbingOptions
from hasql._probing.schedule import Bursts, Evidence
from hasql.cluster.host import HostSpec
from hasql.cluster.topology import Failed
from hasql.diagnostics import about
from hasql.driver import Driver, Endpoint
from hasql.driver.deadline import cancellations
from hasql.driver.kept_errors import without_frames

__all__ = ("Monitors", "end_tasks")

log = logging.getLogger("hasql")

#: Seconds in which cancelled tasks have to end.
_END_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class _RunningMonitor:
    """A monitor and the task it runs in."""

    monitor: Monitor
    task: asyncio.Task[None]


class Monitors:
    """One monitor for each host, from the time the host comes until it has gone."""

    def __init__(
        self, driver: Driver[Any, Any], options: ProbingOptions, view: ClusterView
    ) -> None:
        self._driver = driver
        self._options = options
        self._clock = options.clock
        self._view = view
        self._bursts = Bursts(options.clock)
        self._running: dict[HostSpec, _RunningMonitor] = {}

    def begin(self, endpoint: Endpoint) -> None:
        """Probe a host from now on, unless it is probed already."""
        if endpoint.host in self._running:
            return
        monitor = Monitor(
            endpoint, self._driver, self._options, self._view, self._bursts, self._lost
        )
        task = asyncio.get_running_loop().create_task(self._run(monitor))
        self._running[endpoint.host] = _RunningMonitor(monitor, task)

    def stop(self, host: HostSpec) -> list[asyncio.Task[None]]:
        """Stop probing a host; return the task that has to be ended for that, if any."""
        running = self._running.pop(host, None)
        self._bursts.forget(host)
        return [] if running is None else [running.task]

    async def end(self) -> None:
        """Stop probing all hosts."""
        tasks = [running.task for running in self._running.values()]
        self._running.clear()
        await end_tasks(tasks)

    # When to probe

    def probe_all(self, concerned: HostSpec | None = None) -> None:
        """Probe every host now; `concerned` is the host whose lease has caused that, if any has."""
        for host, running in self._running.items():
            running.monitor.probe_now(concerned=host == concerned)

    def probe_by(self, host: HostSpec, due: float) -> None:
        """Probe a host at this time by the clock, unless a probe is due sooner."""
        if host in self._running:
            self._running[host].monitor.probe_by(due)

    def leave_if_moved(self, host: HostSpec) -> bool:
        """Make a host's monitor leave an address that the name has left; return whether it has."""
        running = self._running.get(host)
        return running is not None and running.monitor.leave_if_moved()

    def probe_often(self, host: HostSpec | None = None) -> None:
        """Probe every host often for a while, because something has changed.

        With a `host`, only its health has changed; while there is a master, that counts as evidence
        of this host and no more. Without a `host`, a role has changed, or which hosts are fenced.
        """
        if host is not None and not self._is_urgent():
            self.signal(host, Evidence.HEALTH)
            return
        self._bursts.learned()
        if self._bursts.begin():
            self.probe_all()
        self._bursts.found = host is None

    def signal(self, host: HostSpec, evidence: Evidence | None = None) -> bool:
        """Take note of a possible change on a host: a lease has met it, or `evidence` shows it.

        This begins a burst, or costs this host a probe. Returns whether it is probed at once.
        """
        running = self._running.get(host)
        if running is None:
            return False
        if evidence is Evidence.ELSEWHERE:
            # The name of a replaced master may by now lead to where this host's name has led.
            for each in self._running.values():
                if each is running or each.monitor.is_replaced:
                    each.monitor.ask_fresh_look()
            return False
        if evidence is not None:
            if not self._bursts.begin_by_evidence(host, evidence):
                running.monitor.probe_again()
                return False
            if evidence is not Evidence.HEALTH:  # a probe has just found that
                running.monitor.skip_rest()
            self.probe_all()
            return True
        if not self._bursts.begin_by_hint(urgent=self._is_urgent()):
            return running.monitor.probe_on_hint()
        self.probe_all(host)
        return True

    def _lost(self, host: HostSpec) -> None:
        self.signal(host, Evidence.LOST)

    def _is_urgent(self) -> bool:
        return not self._view.topology.masters

    # The tasks

    def are_cancelled(self) -> bool:
        """Tell whether the tasks were cancelled from outside, as by asyncio.run() at its end."""
        # All of them, because a time limit within one task cancels that one for a moment.
        tasks = [running.task for running in self._running.values()]
        return bool(tasks) and all(task.cancelling() for task in tasks)

    async def _run(self, monitor: Monitor) -> None:
        loop, host = asyncio.get_running_loop(), monitor.host
        try:
            while not self._view.inherited:
                try:
                    await monitor.run()
                except asyncio.CancelledError:
                    if cancellations():
                        raise
                    # It was not this task that was cancelled, but code of the application's that
                    # takes part in a login.
                    await self._fail(host, ConnectionError("its login was cancelled"))
                except Exception as error:
                    if loop.is_closed():
                        return  # it was closed before the manager, which is being collected
                    # A defect of hasql must not leave a host without a monitor.
                    log.exception(
                        "%s: its monitor failed and is starting again",
                        host,
                        extra=about("monitor_failed", host=host),
                    )
                    await self._fail(host, without_frames(error))
        except asyncio.CancelledError as cancelled:
            # The task may have been cancelled from outside, as by asyncio.run() at its end. Then no
            # loop is left to close connections in, so nothing may stay open. (If a loop is closed
            # without cancelling its tasks, nothing can be closed any more.)
            running = self._running.get(host)
            own = running is not None and running.task is asyncio.current_task()
            if own and not self._view.inherited:
                self._view.terminate_pools(host)
            # The task keeps the exception until it is collected itself. The frames would keep a
            # login alive until then.
            raise without_frames(cancelled)  # noqa: B904  # it is the same

    async def _fail(self, host: HostSpec, error: Exception) -> None:
        """Report a host as failed, and wait a while: its monitor has failed outside of a probe."""
        now = self._clock()
        self._view.publish(Failed(host, now, now, error))
        await asyncio.sleep(self._options.refresh_delay)


async def end_tasks(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended, but for no longer than a second."""
    for task in tasks:
        task.cancel()
    if tasks:
        # A driver that goes on waiting for a silent server all the same is left behind.
        await asyncio.wait(tasks, timeout=_END_TIMEOUT)
