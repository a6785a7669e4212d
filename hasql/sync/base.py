"""The base of every driver's pool manager for threads."""

import atexit
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet, finalize

from hasql._leasing.thread_lease import ThreadLease
from hasql._manager.assembly import ThreadParts, assemble_for_threads
from hasql._manager.facade import Facade
from hasql._manager.options import Options
from hasql._manager.pool_access import pools_of
from hasql._manager.resizing import Resizing
from hasql._routing.request import MASTER, REPLICA, REPLICA_OR_MASTER
from hasql.cluster.checks import check_seconds
from hasql.diagnostics import about, counted
from hasql.discovery import Discovery
from hasql.driver import ConnT, Driver, PoolT
from hasql.errors import HasqlError, PoolManagerClosedError
from hasql.resilience.drain_report import DrainReport
from hasql.resilience.retry_policy import RetryPolicy
from hasql.resilience.run_options import run_options
from hasql.resilience.session_defaults import SessionDefaults
from hasql.resilience.thread_runs import ThreadRuns

__all__ = ("BaseSyncPoolManager",)

_T = TypeVar("_T")

log = logging.getLogger("hasql")


class BaseSyncPoolManager(Facade[PoolT, ConnT, ThreadLease[PoolT, ConnT]]):
    """Hands out connections to the master or the replicas of one cluster, to threads.

    Use the subclass for your driver, such as `hasql.sync.psycopg3.PoolManager`. The arguments,
    their defaults and the errors are those of `hasql.base.BasePoolManager`.

    Any thread may use any method. The constructor only checks its arguments. The first use starts
    one daemon thread, which watches the hosts and ends with the manager. In a child process that
    was forked after that, the first use starts afresh and touches nothing of the parent's.
    """

    _new_lease = ThreadLease
    _runs: ThreadRuns[PoolT, ConnT]

    def _assemble(
        self, options: Options, driver: Driver[PoolT, ConnT], source: Discovery
    ) -> ThreadParts[PoolT, ConnT]:
        self._ingredients = options, driver, source
        return assemble_for_threads(options, driver, source, self._start)

    def _take(self, parts: ThreadParts[PoolT, ConnT]) -> None:  # type: ignore[override]  # its own
        super()._take(parts)
        self._parts = parts
        # Reentrant: a signal handler may close a manager that its own thread is just starting.
        self._start_lock = threading.RLock()
        self._waits, self._returns, self._runs = parts.waits, parts.returns, parts.runs
        self._finalizer: finalize[..., Any] | None = None
        _managers.add(self)

    def _check_caller(self) -> None:
        """Allow any thread."""

    # Starting

    def _start(self) -> None:
        """Start unless started; called on every use. Raises PoolManagerClosedError once closing."""
        parts = self._parts
        if parts.checkout.live and not parts.lifetime.closing:
            return
        with self._start_lock:
            if parts.lifetime.closing:
                raise PoolManagerClosedError("the pool manager is closed")
            if not parts.thread.started:
                if self._finalizer is None:
                    # A manager that is dropped without being closed leaves no thread behind.
                    # Leases that are out keep it alive.
                    end_after, terminate = parts.thread.end_after, parts.closing.terminate
                    self._finalizer = finalize(self, end_after, terminate)
                    self._finalizer.atexit = False  # `_end_all` waits for the thread, too
                parts.thread.start()
            try:
                parts.thread.run(_entering(parts.lifetime.ensure_started))
            finally:
                if parts.lifetime.closed:  # closed meanwhile, by a signal handler
                    parts.thread.stop()
            parts.checkout.live = True

    def _run(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine function in the loop, started if need be, and wait for it."""
        self._start()
        return self._parts.thread.run(work)

    def _begin_anew(self) -> None:
        """Start afresh in a child process that was just forked, with nothing of the parent's."""
        parts = self._parts
        self._options.chance.seed()  # otherwise all children would choose alike
        if not parts.thread.started:
            self._start_lock = threading.RLock()  # another thread may have held it at the fork
            return
        _inherited.append(parts)  # kept alive: their end would send something to the servers
        if self._finalizer is not None:
            self._finalizer.detach()
        parts.returns.inherited = True
        if parts.lease_watch is not None:
            parts.lease_watch.inherited = True
        options, driver, source = self._ingredients
        options = replace(options, pool_factory_kwargs=parts.routing.pool_kwargs)
        self._take(assemble_for_threads(options, driver, source, self._start))
        parts.checkout.live, parts.checkout.child_checkout = False, self._parts.checkout
        self._routing.notifier.take_over(parts.routing.notifier)
        self.set_tracer(parts.routing.tracer)
        if parts.lifetime.closing:
            self._lifetime.close_unstarted()

    # A unit of work

    def run(  # noqa: PLR0913  # the public API, fixed
        self,
        work: Callable[[ConnT], _T],
        *,
        read_only: bool = False,
        idempotent: bool = False,
        retry: RetryPolicy | None = None,
        isolation: str | None = None,
        resolve_commits: bool = True,
    ) -> _T:
        """Do work in a transaction, and do it again where that is safe.

        `work` is a function that takes a connection; see `hasql.base.BasePoolManager.run`.
        """
        options = run_options(read_only, idempotent, retry, isolation, resolve_commits)
        acquire = self._lease_to_read if read_only else self._lease_to_write
        return self._runs.run(work, options, acquire)

    # Giving back

    def getconn(
        self,
        read_only: bool = False,  # noqa: FBT001, FBT002  # positional in the public API
        fallback_master: bool | None = None,  # noqa: FBT001  # as above
        master_as_replica_weight: float | None = None,
        timeout: float | None = None,
        *,
        session: SessionDefaults | None = None,
        **kwargs: Any,
    ) -> ConnT:
        """Acquire a connection that is given back with `putconn`; see `acquire`."""
        lease = self.acquire(
            read_only, fallback_master, master_as_replica_weight, timeout, session=session, **kwargs
        )
        return lease.take()

    def putconn(self, connection: ConnT, **kwargs: Any) -> None:
        """Give back a connection that `getconn` has acquired, from any thread.

        Its open transaction is rolled back and its session reset. If that takes longer than
        `release_timeout` seconds, it is closed instead. `kwargs` go to the driver's own release.

        Give it back only once: a second call ends whatever lease of `getconn` it has by then.

        Raises:
            UnknownConnectionError: The connection is not lent by this manager, or is lent to
                another thread's block; a ValueError.
        """
        if self._book.find(connection) is None and _is_inherited(connection):
            return
        self._returns.give_back_by_call(self._book.of(connection), kwargs)

    def release_to_pool(self, connection: ConnT, pool: PoolT, **kwargs: Any) -> None:
        """Give a connection back to the pool it came from; see `putconn`.

        A connection that was taken from the pool directly has to be registered first.

        Raises:
            UnknownConnectionError: The pool is not this manager's, it lent no such connection, or
                it lent it to another thread's block.
        """
        if self._book.find(connection) is None and _is_inherited(connection):
            return
        self._returns.give_back_by_call(self._lease_of(connection, pool), kwargs)

    # The driver's pools

    def get_pool(self, read_only: bool, fallback_master: bool | None = None) -> PoolT:  # noqa: FBT001  # positional in the public API
        """Return the pool that an acquire would use now; waits as an acquire does.

        `master_as_replica_weight` counts here as well.

        Raises:
            NotAvailableError: No suitable host could serve within `acquire_timeout`.
        """
        node = self._parts.checkout.find(self._request(read_only, fallback_master))
        return pools_of([node])[0]

    def get_master_pools(self) -> list[PoolT]:
        """Return the pools of all masters in routing; waits for the first as an acquire does."""
        self._parts.checkout.find(MASTER)
        return pools_of(self._routing.masters)

    def get_replica_pools(self, fallback_master: bool = False) -> list[PoolT]:  # noqa: FBT001, FBT002  # as above
        """Return the pools of all replicas in routing; waits for the first as an acquire does.

        With `fallback_master` it returns the pools of the masters when no replica is in routing.
        """
        self._parts.checkout.find(REPLICA_OR_MASTER if fallback_master else REPLICA)
        return pools_of(self._routing.replicas or self._routing.masters)

    # Waiting for hosts

    def ready(
        self,
        masters_count: int | None = None,
        replicas_count: int | None = None,
        timeout: float = 10.0,
    ) -> None:
        """Wait until this many masters and replicas are in routing; without counts, for all hosts.

        Raises what `hasql.base.BasePoolManager.ready` does.
        """
        self._run(lambda: self._waits.ready(masters_count, replicas_count, timeout))

    def wait_all_ready(self) -> None:
        """Wait, however long it takes, until all hosts answer."""
        self._run(self._waits.all_ready)

    def wait_masters_ready(self, masters_count: int) -> None:
        """Wait, however long it takes, until this many masters are in routing."""
        self._run(lambda: self._waits.masters_ready(masters_count))

    def wait_replicas_ready(self, replicas_count: int) -> None:
        """Wait, however long it takes, until this many replicas are in routing."""
        self._run(lambda: self._waits.replicas_ready(replicas_count))

    def wait_next_pool_check(self, timeout: float = 10.0) -> None:
        """Wait until each host has been probed once more, whatever the outcome.

        Raises:
            NotAvailableError: Some probe has not ended after `timeout` seconds.
        """
        self._run(lambda: self._waits.until_probed_anew(timeout))

    def __enter__(self) -> Self:
        fresh = not self._parts.checkout.live
        try:
            self._run(self._waits.started)
        except BaseException:
            if fresh and self._parts.thread.started:
                self.terminate()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Closing

    def close(self, timeout: float = 10.0) -> None:
        """Close: refuse new acquires, let the leases end, then close the pools.

        Whatever has not ended after `timeout` seconds is broken. Waiting acquires end at once with
        PoolManagerClosedError. Closing again waits for the first close. A signal handler that
        calls this in the middle of an acquire does not wait for the end.
        """
        seconds = check_seconds("timeout", timeout)
        self._end(lambda: self._parts.closing.close(seconds))

    def drain(self, timeout: float = 30.0) -> DrainReport:
        """Close as `close` does, and report what had to be broken: for the end of a program.

        New acquires are refused, and waiting ones end at once with PoolManagerClosedError. The
        leases that are out have `timeout` seconds to finish and commit. Those still out then are
        broken; the log and the report say on which hosts they were, and for how long.

        Draining again waits for the first drain and returns its report. `terminate` in another
        thread breaks what is left at once.

        Raises:
            HasqlError: This thread is within the block of a lease, whose end it would wait for.
        """
        seconds = check_seconds("timeout", timeout)
        if not self._lifetime.closed:
            self._check_own_leases(seconds)
        self._end(lambda: self._parts.closing.drain(seconds))
        return self._parts.closing.report

    def _check_own_leases(self, seconds: float) -> None:
        """Refuse to drain within a block of this thread; warn if it holds leases of `getconn`."""
        own = [lease for lease in self._book.all() if lease.thread == threading.get_ident()]
        if not all(lease.released_by_call for lease in own):
            raise HasqlError(
                "this thread is inside the `with` block of a lease, and draining would wait for "
                "that block to end: leave the block first, or have another thread drain"
            )
        if own:
            log.warning(
                "draining waits for %s that this same thread took with getconn(): any that no "
                "other thread gives back will be broken in %g s",
                counted(len(own), "connection"),
                seconds,
                extra=about("draining_waits_for_itself"),
            )

    def terminate(self) -> None:
        """Close without waiting for leases or servers: every connection is broken now."""
        self._end(self._parts.closing.terminate)

    def _end(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        parts = self._parts
        with self._start_lock:
            if not parts.thread.started:
                self._lifetime.close_unstarted()
                return
        try:
            if not parts.lifetime.closed:
                parts.thread.run_last(work, parts.routing.guard)
        except PoolManagerClosedError:
            pass  # closed by another thread meanwhile, or the program is ending
        except HasqlError:
            raise  # called in the loop's own thread: nothing has begun
        except BaseException:
            parts.thread.end_after(parts.closing.terminate)  # no thread waits for it any more
            raise
        finally:
            if parts.lifetime.closed:
                parts.thread.stop()

    def _abandon(self) -> None:
        """Break everything at the end of the program, without waiting for a server."""
        parts = self._parts
        if parts.thread.started and not parts.lifetime.closed:
            parts.thread.end_after(parts.closing.terminate)
            parts.thread.join()

    def resize(self, min_size: int | None = None, max_size: int | None = None) -> None:
        """Change the bounds of each host's pool, for the hosts of now and for later ones.

        It returns when all pools are replaced: see `hasql.base.BasePoolManager.resize`.
        """
        kwargs = self._new_pool_kwargs(min_size, max_size)
        if kwargs is not None:
            resizing = self._resizing
            self._run(lambda: _waiting(resizing, kwargs))

    def accept_timeline(self) -> None:
        """Forget which timelines were seen, so that a master on an older one may serve again.

        Use it when the newer master is gone for good: its data directory was restored to an earlier
        state, or a promotion was undone on purpose.
        """
        self._parts.thread(self._routing.accept_timeline)


async def _waiting(resizing: Resizing[PoolT, ConnT], kwargs: Mapping[str, Any]) -> None:
    await resizing.begin(kwargs)


def _entering(enter: Callable[[], None]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def start() -> None:
        enter()

    return start


#: All managers of this process, and the parts of the managers of a parent process.
_managers: WeakSet[BaseSyncPoolManager[Any, Any]] = WeakSet()
_inherited: list[ThreadParts[Any, Any]] = []


def _is_inherited(connection: object) -> bool:
    """Tell if a connection was lent by the parent process; a new one may have its `id` by now."""
    return any(parts.book.find(connection) is not None for parts in _inherited)


def _end_all() -> None:
    """End the managers left open, so that nothing is heard of them while Python shuts down."""
    for manager in tuple(_managers):
        manager._abandon()  # noqa: SLF001  # its own


def _disinherit() -> None:
    for manager in tuple(_managers):
        manager._begin_anew()  # noqa: SLF001  # its own


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disinherit)
