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

    Use the subclass of your driver, `hasql.asyncpg.PoolManager` for one. Constructing checks the
    arguments and does nothing else: no task, no socket. The first use starts it, in the event
    loop it is used in; it serves that loop alone.

    All durations are seconds, as int or float.

    Args:
        dsn: One URL or keyword/value string that names all hosts; see `hasql.cluster.dsn`.
        acquire_timeout: For one acquire in all: waiting, choosing, connecting, retrying.
        refresh_delay: Between two probes of a host while nothing happens.
        refresh_timeout: After which a host that is silent leaves routing.
        fallback_master: Whether `acquire_replica` may use a master when no replica is in routing.
            Replicas whose connections are all in use are in routing.
        master_as_replica_weight: Probability, 0 to 1, that `acquire_replica` goes to a master.
        balancer_policy: How one of several candidates is picked: a subclass of
            `BaseBalancerPolicy`, or an instance of one, which serves this manager alone.
        stopwatch_window_size: Over how many probes a host's median response time is taken.
        pool_factory_kwargs: For the driver's pool, which has exactly the sizes given here. One more
            connection is opened on each host for probing, two at times.
        lease_abort_after: After so long without any answer of a host the connections lent on it
            are broken, so that nobody waits for ever. None: never.
        release_timeout: What giving a connection back may take; after that it is broken instead.
        fencing: Whether a master that a newer timeline has replaced is refused.
        allow_several_clusters: Whether hosts may have different system identifiers.
        never_master: Hosts (`host`, or `host:port`) that are never used as a master. With
            `discovery` they need not be known yet.
        discovery: Where the hosts come from, an instance that serves this manager alone. The DSN
            need not name a host then; those that it names are what the manager begins with. None:
            the DSN's hosts, or what the DSN asks for with ``discovery=``. One that asks by SQL has
            a connection of its own, to one host.
        follow_names: Whether connections to an address that the host's name has left are drained:
            idle ones at once, leases when they are released. Names are looked up when their TTL
            ends, or every 30 s by the system's resolver, without the extra `dns`; and each second
            while there is no master, or their host does not answer.
        resolver: What looks names up, with nameservers and times of its own. None: DNS as
            resolv.conf says.
        session: What each connection is set to: time limits, search path and such.
        credentials: Asked for the password, or the user and the password, of each new connection.
        lifecycle: How old connections become, and what is said of leases that are out too long.
        admission: How many leases there may be at once, and who waits.
        rate_limit: How many acquires there may be in a time.
        breaker: When acquires of a master are refused at once.
        report_every: Seconds between two log records on the pools. None: there are none.

    Raises:
        ConfigurationError: A DSN, value or pool argument that cannot work; it is a ValueError.
        TypeError: An argument of a wrong type.
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

    # No coroutine itself, as each layer of those costs every run a microsecond.

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

        `work` gets the driver's own connection and returns what this returns. It leaves the
        transaction open: that is committed when it returns, and rolled back when it raises. It may
        be called several times, each time with another connection and from its beginning.

        Tried again is what was lost before COMMIT was sent, what the server says another one may
        succeed with (40001, 40P01, 57P01 to 57P03, 53300, 25006 of a master that is none any more),
        and getting a connection. A connection that is lost after COMMIT was sent leaves its outcome
        open, and that is found out.

        Args:
            work: A coroutine function that takes a connection.
            read_only: Whether it is for a replica, and the transaction read-only.
            idempotent: Whether it may be done once more where nobody knows if it was committed.
            retry: How often and for how long to try. None: five times, and 30 seconds in all.
            isolation: The isolation level, such as ``"serializable"``. None: the session's default.
            resolve_commits: Whether to find out what has become of a commit whose answer was lost.
                That takes a round trip before each commit of what has written something.

        Raises:
            CommitUnknownError: Nobody knows whether it was committed.
            RolledBackError: It went on after an error that it has caught, and is rolled back.
            NotAvailableError: No suitable host could serve in the time that there is.
            HasqlError: It is called within another run of this manager; or the work has committed
                or rolled back by itself, or given its connection back.
            Exception: What the work raises; the driver's own error, once the policy says so.
        """
        options = run_options(read_only, idempotent, retry, isolation, resolve_commits)
        acquire = self._lease_to_read if read_only else self._lease_to_write
        return self._runs.run(work, options, acquire)

    # Giving back

    async def release(self, connection: ConnT, **kwargs: Any) -> None:
        """Give a connection back that was acquired with ``await``.

        Its open transaction is rolled back and its session reset, in `release_timeout` seconds
        at most; then it is closed instead. `kwargs` go to the driver's own release.

        Raises:
            UnknownConnectionError: The connection is not lent by this manager, or was lent to
                another task since this one gave it back; a ValueError.
        """
        self._check_caller()
        lease = self._book.of(connection)
        await self._give_back(lease, connection, kwargs)

    async def release_to_pool(self, connection: ConnT, pool: PoolT, **kwargs: Any) -> None:
        """Give a connection back to the pool it came from.

        One that was taken from the pool directly has to be registered before. `kwargs` go to the
        driver's own release.

        Raises:
            UnknownConnectionError: The pool is not this manager's, or lent no such connection, or
                the connection is another task's; see `release`.
        """
        self._check_caller()
        lease = self._lease_of(connection, pool)
        await self._give_back(lease, connection, kwargs)

    async def _give_back(
        self, lease: Lease[PoolT, ConnT], connection: ConnT, kwargs: dict[str, Any]
    ) -> None:
        """Give back what was acquired with ``await``, unless it is another task's by now."""
        pool: AsyncPool[PoolT, ConnT] | None
        pool = None if lease.node is None else lease.node.pool  # type: ignore[assignment]  # its face's
        if pool is not None and pool.is_anothers(connection):
            raise UnknownConnectionError(
                "this task has given the connection back, and it is lent to another task now; "
                "release a connection once, and leave one of another task to that"
            )
        if pool is not None:
            pool.note_release(connection)
        await self._returns.give_back(lease, None, kwargs)

    # The driver's pools

    async def get_pool(self, read_only: bool, fallback_master: bool | None = None) -> PoolT:  # noqa: FBT001  # positional in the public API
        """Return the pool that an acquire would use now; waits like one.

        `master_as_replica_weight` counts as it does there.

        Raises:
            NotAvailableError: No suitable host could serve within `acquire_timeout`.
        """
        node = await self._parts.checkout.find(self._request(read_only, fallback_master))
        return pools_of([node])[0]

    async def get_master_pools(self) -> list[PoolT]:
        """Return the pools of all masters in routing; waits like an acquire for the first."""
        await self._parts.checkout.find(MASTER)
        return pools_of(self._routing.masters)

    async def get_replica_pools(self, fallback_master: bool = False) -> list[PoolT]:  # noqa: FBT001, FBT002  # as above
        """Return the pools of all replicas in routing; waits like an acquire for the first.

        With `fallback_master` those of the masters when no replica is in routing.
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
        """Wait until so many masters and replicas are in routing; without counts, for all hosts.

        Raises:
            ValueError: One count without the other, or a negative one.
            NotAvailableError: They are not there after `timeout` seconds; a TimeoutError.
            Exception: The driver's own error, at once, when every host refuses the login, the
                database name or TLS, or when the arguments for connecting cannot work on any:
                a misspelt `sslmode`, a certificate file that is not there.
        """
        self._lifetime.enter()
        await self._waits.ready(masters_count, replicas_count, timeout)

    async def wait_all_ready(self) -> None:
        """Wait, however long it takes, until all hosts answer."""
        self._lifetime.enter()
        await self._waits.all_ready()

    async def wait_masters_ready(self, masters_count: int) -> None:
        """Wait, however long it takes, until so many masters are in routing."""
        self._lifetime.enter()
        await self._waits.masters_ready(masters_count)

    async def wait_replicas_ready(self, replicas_count: int) -> None:
        """Wait, however long it takes, until so many replicas are in routing."""
        self._lifetime.enter()
        await self._waits.replicas_ready(replicas_count)

    async def wait_next_pool_check(self, timeout: float = 10.0) -> None:
        """Wait until each host has been probed once more, with whatever outcome.

        Raises:
            NotAvailableError: Not every probe has ended after `timeout` seconds.
        """
        self._lifetime.enter()
        await self._waits.until_probed_anew(timeout)

    async def __aenter__(self) -> Self:
        fresh = not self._lifetime.started
        try:
            self._lifetime.enter()
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
        if exc is None or not self._binding.inherited:  # else what ends a child says enough
            await self.close()

    # Closing

    async def close(self, timeout: float = 10.0) -> None:
        """Close: refuse new acquires, let the leases end, then close the pools.

        After `timeout` seconds what has not ended is broken. Waiting acquires end at once with
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
        """Close as `close` does, and tell of what had to be broken: for the end of a program.

        No new acquires, those that wait end at once with PoolManagerClosedError, and what is in use
        has `timeout` seconds to finish and commit. What is in use still is broken then; the log
        and the report say on which hosts, and for how long it was out.

        Draining again waits for the first time, and has its report. One that is cancelled breaks
        what is left at once, and so does `terminate` meanwhile. A task that is within a block of
        its own waits for itself until the timeout: leave the block first.
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
        """Change the bounds of each host's pool, now and for hosts to come.

        Each host gets another pool with these bounds in place of the driver's present one, in
        `pools` as well. What is idle in that is closed at once, and what is lent when it is given
        back; both together have no more connections than the new bounds allow. Those who wait are
        served as soon as there is room. What is returned can be
        awaited, but need not be: it ends when all pools are replaced.

        Args:
            min_size: How many connections a pool keeps at least. None: as before, but no more than
                `max_size`. Pools of SQLAlchemy's keep none.
            max_size: How many it opens at most. None: as before.

        Raises:
            ConfigurationError: Bounds that cannot work; a ValueError.
            PoolManagerClosedError: The manager is closing or closed.
        """
        self._check_caller()
        kwargs = self._new_pool_kwargs(min_size, max_size)
        return _Done() if kwargs is None else self._resizing.begin(kwargs)

    def accept_timeline(self) -> None:
        """Forget which timelines were seen, so that a master of an older one may serve again.

        For when the newer master is gone for good: its data directory was restored to an earlier
        state, or a promotion was undone on purpose.
        """
        self._check_caller()
        self._routing.accept_timeline()


class _Done(Awaitable[None]):
    """What can be awaited where there is nothing to wait for."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield
