"""The base of every driver's pool manager: the public API over the parts that do the work."""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Self, TypeVar

from hasql._leasing.async_lease import AsyncLease
from hasql._leasing.lease import Lease
from hasql._manager.assembly import AsyncParts, assemble
from hasql._manager.facade import Facade
from hasql._manager.options import Options
from hasql._manager.pool_access import pools_of
from hasql._routing.request import MASTER, REPLICA, REPLICA_OR_MASTER
from hasql.cluster.checks import check_seconds
from hasql.discovery import Discovery
from hasql.driver import AsyncPool, ConnT, Driver, PoolT
from hasql.errors import UnknownConnectionError
from hasql.resilience.drain_report import DrainReport
from hasql.resilience.retry_policy import RetryPolicy
from hasql.resilience.run_options import run_options
from hasql.resilience.task_runs import TaskRuns

__all__ = ("BasePoolManager",)

_T = TypeVar("_T")


class BasePoolManager(Facade[PoolT, ConnT, AsyncLease[PoolT, ConnT]]):
    """Hands out connections to the master or the replicas of one cluster.

    Use the subclass for your driver, such as `hasql.asyncpg.PoolManager`. The constructor only
    checks its arguments: it starts no task and opens no socket. The first use starts the manager
    in the running event loop, and the manager serves that loop alone.

    All durations are seconds, as int or float.

    Args:
        dsn: One URL or keyword/value string that names all hosts; see `hasql.cluster.dsn`.
        acquire_timeout: Time for one whole acquire: waiting, choosing, connecting, retrying.
        refresh_delay: Pause between two probes of a host while nothing happens.
        refresh_timeout: Time after which a host that does not answer leaves routing.
        fallback_master: Whether `acquire_replica` may use a master when no replica is in routing.
            A replica whose connections are all in use still is in routing.
        master_as_replica_weight: Probability, 0 to 1, that `acquire_replica` goes to a master.
        balancer_policy: How one of several candidates is picked: a subclass of
            `BaseBalancerPolicy`, or an instance of one, which then serves this manager alone.
        stopwatch_window_size: Number of probes over which a host's median response time is taken.
        pool_factory_kwargs: Arguments for the driver's pool, which has exactly the sizes given
            here. Each host has one more connection for probing, and at times two.
        lease_abort_after: If a host gives no answer at all for this long, the connections lent on
            it are broken, so that no caller waits for ever. None: they never are.
        release_timeout: Time that giving a connection back may take; after it the connection is
            broken instead.
        fencing: Whether a master that a newer timeline has replaced is refused.
        allow_several_clusters: Whether hosts may have different system identifiers.
        never_master: Hosts (`host`, or `host:port`) that are never used as a master. With
            `discovery` they need not be known yet.
        discovery: The source of the hosts, an instance that serves this manager alone. The DSN
            then need not name a host; the hosts that it does name are used at the beginning. None:
            the hosts are those of the DSN, or come from what the DSN names with ``discovery=``. A
            source that asks by SQL has a connection of its own, to one host.
        follow_names: Whether to drain the connections to an address that the host's name has left:
            idle ones are closed at once, lent ones when they are given back. A name is looked up
            again when its TTL ends (with the system's resolver, used without the extra `dns`:
            every 30 s), and every second while there is no master or the host does not answer.
        resolver: Looks names up, with nameservers and times of its own. None: DNS as resolv.conf
            configures it.
        session: Settings for each connection: time limits, search path and such.
        credentials: Called for the password, or the user and the password, of each new connection.
        lifecycle: How old connections may become, and what happens when a lease is out too long.
        admission: How many leases may be out at once, and which acquires wait.
        rate_limit: How many acquires are allowed in a period of time.
        breaker: When acquires of a master are refused at once.
        report_every: Seconds between two log records on the pools. None: there are no such records.

    Raises:
        ConfigurationError: The DSN, a value or a pool argument cannot work. It is a ValueError.
        TypeError: An argument has a wrong type.
    """

    _new_lease = AsyncLease
    _runs: TaskRuns[PoolT, ConnT]

    def _assemble(
        self, options: Options, driver: Driver[PoolT, ConnT], source: Discovery
    ) -> AsyncParts[PoolT, ConnT]:
        return assemble(options, driver, source)

    def _take(self, parts: AsyncParts[PoolT, ConnT]) -> None:  # type: ignore[override]  # its own
        super()._take(parts)
        self._parts = parts
        self._waits, self._returns = parts.waits, parts.returns
        self._runs = parts.runs

    def _check_caller(self) -> None:
        """Refuse another loop, another thread or a forked child, unless nothing is open any more.

        Raises WrongEventLoopError.
        """
        if not self._lifetime.closed:
            self._binding.check()

    # A unit of work

    # Not a coroutine itself: each layer of those costs every run a microsecond.

    def run(  # noqa: PLR0913  # the public API, fixed
        self,
        work: Callable[[ConnT], Awaitable[_T]],
        *,
        read_only: bool = False,
        idempotent: bool = False,
        retry: RetryPolicy | None = None,
        isolation: str | None = None,
        resolve_commits: bool = True,
    ) -> Coroutine[Any, Any, _T]:
        """Do work in a transaction, and do it again where that is safe: see `docs/howto/retries`.

        `work` gets the driver's own connection, and `run` returns what `work` returns. `work`
        leaves the transaction open: it is committed when `work` returns, and rolled back when it
        raises. `work` may be called several times, each time from its beginning on a new lease.

        An attempt is repeated if its connection was lost before COMMIT was sent, if the server
        reports an error that another attempt may not meet (40001, 40P01, 57P01 to 57P03, 53300,
        25006 of a host that has ceased to be a master), or if no connection could be acquired. If
        the connection is lost after COMMIT was sent, hasql finds out whether it was committed.

        Args:
            work: A coroutine function that takes a connection.
            read_only: Whether it is for a replica, and the transaction read-only.
            idempotent: Whether `work` may be repeated when it is unknown if it was committed.
            retry: How often and for how long to try. None: five times, and 30 seconds in all.
            isolation: The isolation level, such as ``"serializable"``. None: the session's default.
            resolve_commits: Whether to find out the outcome of a commit whose answer was lost.
                That takes a round trip before each commit of a transaction that has written.

        Raises:
            CommitUnknownError: Nobody knows whether it was committed.
            RolledBackError: `work` went on after an error that it caught, and was rolled back.
            NotAvailableError: No suitable host could serve in the time allowed.
            HasqlError: `run` was called within another run of this manager; or `work` has committed
                or rolled back by itself, or given its connection back.
            Exception: What `work` raised, or the driver's error, when the policy ends retrying.
        """
        options = run_options(read_only, idempotent, retry, isolation, resolve_commits)
        acquire = self._lease_to_read if read_only else self._lease_to_write
        return self._runs.run(work, options, acquire)

    # Giving back

    async def release(self, connection: ConnT, **kwargs: Any) -> None:
        """Give back a connection that was acquired with ``await``.

        Its open transaction is rolled back and its session reset. If that takes longer than
        `release_timeout` seconds, the connection is closed instead. `kwargs` go to the driver's own
        release.

        Raises:
            UnknownConnectionError: The connection is not lent by this manager, or this task has
                given it back and it is lent to another task now; a ValueError.
        """
        self._check_caller()
        lease = self._book.of(connection)
        await self._give_back(lease, connection, kwargs)

    async def release_to_pool(self, connection: ConnT, pool: PoolT, **kwargs: Any) -> None:
        """Give a connection back to the pool it came from.

        A connection that was taken from the pool directly has to be registered first. `kwargs` go
        to the driver's own release.

        Raises:
            UnknownConnectionError: The pool is not this manager's, it lent no such connection, or
                the connection is lent to another task now; see `release`.
        """
        self._check_caller()
        lease = self._lease_of(connection, pool)
        await self._give_back(lease, connection, kwargs)

    async def _give_back(
        self, lease: Lease[PoolT, ConnT], connection: ConnT, kwargs: dict[str, Any]
    ) -> None:
        """Give back what was acquired with ``await``, unless it is lent to another task by now."""
        pool: AsyncPool[PoolT, ConnT] | None
        pool = None if lease.node is None else lease.node.pool  # type: ignore[assignment]  # its face's
        if pool is not None and pool.is_held_by_another(connection):
            raise UnknownConnectionError(
                "this task gave the connection back, and it is now lent to another task; release "
                "a connection once, and leave another task's connection to that task"
            )
        if pool is not None:
            pool.note_release(connection)
        await self._returns.give_back(lease, None, kwargs)

    # The driver's pools

    async def get_pool(self, read_only: bool, fallback_master: bool | None = None) -> PoolT:  # noqa: FBT001  # positional in the public API
        """Return the pool that an acquire would use now; waits as an acquire does.

        `master_as_replica_weight` counts here as well.

        Raises:
            NotAvailableError: No suitable host could serve within `acquire_timeout`.
        """
        node = await self._parts.checkout.find(self._request(read_only, fallback_master))
        return pools_of([node])[0]

    async def get_master_pools(self) -> list[PoolT]:
        """Return the pools of all masters in routing; waits for the first as an acquire does."""
        await self._parts.checkout.find(MASTER)
        return pools_of(self._routing.masters)

    async def get_replica_pools(self, fallback_master: bool = False) -> list[PoolT]:  # noqa: FBT001, FBT002  # as above
        """Return the pools of all replicas in routing; waits for the first as an acquire does.

        With `fallback_master` it returns the pools of the masters when no replica is in routing.
        """
        await self._parts.checkout.find(REPLICA_OR_MASTER if fallback_master else REPLICA)
        return pools_of(self._routing.replicas or self._routing.masters)

    # Waiting for hosts

    async def ready(
        self,
        masters_count: int | None = None,
        replicas_count: int | None = None,
        timeout: float = 10.0,
    ) -> None:
        """Wait until this many masters and replicas are in routing; without counts, for all hosts.

        Raises:
            ValueError: Only one of the counts was given, or a count is negative.
            NotAvailableError: They are not in routing after `timeout` seconds; a TimeoutError.
            Exception: The driver's own error, at once, when every host refuses the login, the
                database name or TLS, or when the connect arguments cannot work on any host, such
                as a misspelt `sslmode` or a certificate file that does not exist.
        """
        self._lifetime.ensure_started()
        await self._waits.ready(masters_count, replicas_count, timeout)

    async def wait_all_ready(self) -> None:
        """Wait, however long it takes, until all hosts answer."""
        self._lifetime.ensure_started()
        await self._waits.all_ready()

    async def wait_masters_ready(self, masters_count: int) -> None:
        """Wait, however long it takes, until this many masters are in routing."""
        self._lifetime.ensure_started()
        await self._waits.masters_ready(masters_count)

    async def wait_replicas_ready(self, replicas_count: int) -> None:
        """Wait, however long it takes, until this many replicas are in routing."""
        self._lifetime.ensure_started()
        await self._waits.replicas_ready(replicas_count)

    async def wait_next_pool_check(self, timeout: float = 10.0) -> None:
        """Wait until each host has been probed once more, whatever the outcome.

        Raises:
            NotAvailableError: Some probe has not ended after `timeout` seconds.
        """
        self._lifetime.ensure_started()
        await self._waits.until_probed_anew(timeout)

    async def __aenter__(self) -> Self:
        fresh = not self._lifetime.started
        try:
            self._lifetime.ensure_started()
            await self._waits.started()
        except BaseException:
            if fresh and self._lifetime.started:
                await self.terminate()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # In a forked child the exception is let through: `close` would raise another.
        if exc is None or not self._binding.inherited:
            await self.close()

    # Closing

    async def close(self, timeout: float = 10.0) -> None:
        """Close: refuse new acquires, let the leases end, then close the pools.

        Whatever has not ended after `timeout` seconds is broken. Waiting acquires end at once with
        PoolManagerClosedError. Closing again waits for the first close.
        """
        seconds = check_seconds("timeout", timeout)
        self._check_caller()
        if self._lifetime.started:
            self._binding.check()
            await self._parts.closing.close(seconds)
        else:
            self._lifetime.close_unstarted()

    async def drain(self, timeout: float = 30.0) -> DrainReport:
        """Close as `close` does, and report what had to be broken: for the end of a program.

        New acquires are refused, and waiting ones end at once with PoolManagerClosedError. The
        leases that are out have `timeout` seconds to finish and commit. Those still out then are
        broken; the log and the report say on which hosts they were, and for how long.

        Draining again waits for the first drain and returns its report. If `drain` is cancelled, or
        `terminate` is called meanwhile, what is left is broken at once. A task that drains within
        the block of its own lease waits for itself until the timeout: leave the block first.
        """
        seconds = check_seconds("timeout", timeout)
        self._check_caller()
        if self._lifetime.started:
            self._binding.check()
            return await self._parts.closing.drain(seconds)
        self._lifetime.close_unstarted()
        return self._parts.closing.report

    async def terminate(self) -> None:
        """Close without waiting for leases or servers: every connection is broken now."""
        self._check_caller()
        if self._lifetime.started:
            await self._parts.closing.terminate()
        else:
            self._lifetime.close_unstarted()

    def resize(self, min_size: int | None = None, max_size: int | None = None) -> Awaitable[None]:
        """Change the bounds of each host's pool, for the hosts of now and for later ones.

        Each host gets a new pool with these bounds in place of the present one, in `pools` as well.
        Idle connections of the old pool are closed at once, and lent ones when they are given back.
        The two pools together never have more connections than the new bounds allow. Waiting
        acquires are served as soon as there is room. The result can be awaited, but need not be:
        it ends when all pools are replaced.

        Args:
            min_size: How many connections a pool keeps at least. None: as before, but no more than
                `max_size`. SQLAlchemy's pools keep none.
            max_size: How many connections a pool opens at most. None: as before.

        Raises:
            ConfigurationError: The bounds cannot work; a ValueError.
            PoolManagerClosedError: The manager is closing or closed.
        """
        self._check_caller()
        kwargs = self._new_pool_kwargs(min_size, max_size)
        return _Done() if kwargs is None else self._resizing.begin(kwargs)

    def accept_timeline(self) -> None:
        """Forget which timelines were seen, so that a master on an older one may serve again.

        Use it when the newer master is gone for good: its data directory was restored to an earlier
        state, or a promotion was undone on purpose.
        """
        self._check_caller()
        self._routing.accept_timeline()


class _Done(Awaitable[None]):
    """An awaitable that has ended already."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield
