"""The closing of one manager: it happens once, however often it is asked for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic

from hasql._manager.lifetime import Lifetime
from hasql.diagnostics import LeaseInfo, about, counted
from hasql.driver import ConnT, PoolT
from hasql.resilience.drain_report import DrainReport

__all__ = ("Closing",)

log = logging.getLogger("hasql")


class Closing(Generic[PoolT, ConnT]):
    """Closes a manager that has started, in its event loop."""

    def __init__(
        self,
        lifetime: Lifetime[PoolT, ConnT],
        close_returns: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._lifetime = lifetime
        self._close_returns = close_returns
        self._clock = clock
        #: Ends when the first closing has ended. None: closing has not begun.
        self._over: asyncio.Future[None] | None = None
        #: The last part of closing, after the leases were waited for.
        self._stopping: asyncio.Task[None] | None = None
        #: The outcome of the first closing, once it has ended.
        self.report = DrainReport()

    async def drain(self, seconds: float) -> DrainReport:
        """Close, and report what had to be broken."""
        out = self._lifetime.leases_out() if self._over is None else ()
        if out:
            told = ", ".join(map(_told, out))
            log.info(
                "draining: giving %s %g s to end: %s",
                counted(len(out), "lease"),
                seconds,
                told,
                extra=about("draining"),
            )
        await self.close(seconds, says=_say_what_was_broken)
        return self.report

    async def close(
        self,
        seconds: float,
        *,
        says: Callable[[tuple[LeaseInfo, ...]], None] | None = None,
    ) -> None:
        """Refuse new acquires, let the leases end for so many seconds, then close the pools."""
        if self._over is not None:
            await asyncio.shield(self._over)
            return
        lifetime, clock = self._lifetime, self._clock
        if not lifetime.started:  # its start was interrupted
            lifetime.close_unstarted()
            return
        lifetime.refuse()
        self._over = over = lifetime.loop.create_future()
        began = clock()
        deadline = began + seconds
        broken: tuple[LeaseInfo, ...] = ()

        def note_end(_: object) -> None:
            self.report = DrainReport(clock() - began, broken)
            over.set_result(None)

        try:
            await lifetime.drain(seconds)
        except asyncio.CancelledError:
            deadline = clock()
            raise
        finally:
            broken = lifetime.leases_out()
            # In a task of its own: this task may be cancelled at each of its steps, for example by
            # a cancel scope of anyio, or a log handler may raise. Then whatever had not begun to
            # end would go on for ever.
            self._stopping = lifetime.loop.create_task(self._stop(deadline - clock()))
            self._stopping.add_done_callback(note_end)
            if broken:
                (says or _say_how_many)(broken)
            await asyncio.shield(self._stopping)

    async def _stop(self, seconds: float) -> None:
        try:
            await self._lifetime.stop(seconds)
        finally:
            await self._close_returns()

    async def terminate(self) -> None:
        """Close without waiting for leases or servers: every connection is broken now."""
        self._lifetime.refuse()
        self._lifetime.break_all()
        await self.close(0.0)


def _say_how_many(broken: tuple[LeaseInfo, ...]) -> None:
    leases, extra = counted(len(broken), "lease"), about("leases_left")
    log.warning("closing: %s not given back in time", leases, extra=extra)


def _say_what_was_broken(broken: tuple[LeaseInfo, ...]) -> None:
    told = ", ".join(map(_told, broken))
    log.warning(
        "drained: %s not given back in time and so broken: %s",
        counted(len(broken), "lease"),
        told,
        extra=about("leases_left"),
    )


def _told(lease: LeaseInfo) -> str:
    words = f"{lease.host} ({lease.role.value}) out for {lease.since:.1f} s"
    holder = lease.task or lease.correlation_id
    return words if holder is None else f"{words}, taken by {holder}"
