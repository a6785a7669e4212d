"""The base of every driver's pool manager: the public API over the parts that do the work."""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from time import monotonic
from types import TracebackType
from typing import Any, ClassVar, Self

from hasql._leasing.lease import Lease
from hasql._manager.assembly import assemble
from hasql._manager.options import (
    Options,
    frozen_kwargs,
    never_master_hosts,
    policy_of,
)
from hasql._manager.pool_access import PoolAccess
from hasql._probing.followed_names import NameSource
from hasql._probing.name_sources import source_of_names
from hasql._routing.request import MASTER
from hasql.balancer_policy import BaseBalancerPolicy, GreedyBalancerPolicy
from hasql.cluster.checks import check_count, check_flag, check_seconds, check_share
from hasql.cluster.dsn import Dsn
from hasql.cluster.state import Rules
from hasql.discovery import Discovery
from hasql.discovery.choice import choose_source
from hasql.dns import Resolver
from hasql.driver import ConnT, Driver, PoolT
from hasql.errors import ConfigurationError

__all__ = ("BasePoolManager",)

#: Seconds that entering a manager waits for a first host, as long as `ready` does.
_START_TIMEOUT = 10.0


class BasePoolManager(PoolAccess[PoolT, ConnT]):
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

    Raises:
        ConfigurationError: A DSN, value or pool argument that cannot work; it is a ValueError.
        TypeError: An argument of a wrong type.
    """

    _driver: ClassVar[Driver[Any, Any]]
    #: Whether the driver's own library reads a '+' in the query of a URL as a space.
    _plus_is_space: ClassVar[bool] = False

    def __init__(  # noqa: PLR0913  # the public API, fixed
        self,
        dsn: str,
        acquire_timeout: float = 1.0,
        refresh_delay: float = 1.0,
        refresh_timeout: float = 1.0,
        fallback_master: bool = False,  # noqa: FBT001, FBT002  # positional in the public API
        master_as_replica_weight: float = 0.0,
        balancer_policy: type[BaseBalancerPolicy] | BaseBalancerPolicy = GreedyBalancerPolicy,
        stopwatch_window_size: int = 128,
        pool_factory_kwargs: dict[str, Any] | None = None,
        *,
        lease_abort_after: float | None = 10.0,
        release_timeout: float = 5.0,
        fencing: bool = True,
        allow_several_clusters: bool = False,
        never_master: Sequence[str] = (),
        follow_names: bool = True,
        resolver: Resolver | None = None,
        discovery: Discovery | None = None,
    ) -> None:
        parsed = Dsn.parse(dsn, plus_is_space=self._plus_is_space, hosts_needed=discovery is None)
        source = choose_source(parsed, discovery, resolver)
        listed = discovery is None and parsed.source is None
        check_flag("follow_names", follow_names)
        name_source = self._name_source(resolver)
        options = Options(
            dsn=parsed,
            acquire_timeout=acquire_timeout,
            refresh_delay=refresh_delay,
            refresh_timeout=refresh_timeout,
            fallback_master=fallback_master,
            master_as_replica_weight=master_as_replica_weight,
            balancer_policy=policy_of(balancer_policy),
            stopwatch_window_size=stopwatch_window_size,
            pool_factory_kwargs=frozen_kwargs(pool_factory_kwargs),
            release_timeout=release_timeout,
            rules=Rules(
                fencing=fencing,
                allow_several_clusters=allow_several_clusters,
                never_master=never_master_hosts(never_master, parsed.hosts if listed else None),
                lease_abort_after=lease_abort_after,
            ),
            name_source=name_source if follow_names else None,
            clock=self._clock(),
            chance=self._chance(),
        )
        driver: Driver[PoolT, ConnT] = self._driver_of(parsed)
        super().__init__(options, assemble(options, driver, source))
        options.balancer_policy.serve(options.chance)
        self._closing: asyncio.Future[None] | None = None

    def _driver_of(self, dsn: Dsn) -> Driver[PoolT, ConnT]:  # noqa: ARG002  # for subclasses
        """Choose the driver for a DSN."""
        return self._driver

    @staticmethod
    def _name_source(resolver: Resolver | None, /) -> Callable[[], NameSource] | None:
        """Return what makes the source of addresses, once there is a name to follow."""
        return source_of_names(resolver)

    # The one clock of a manager, and where all its chance comes from; a simulation has its own.

    @staticmethod
    def _clock() -> Callable[[], float]:
        return monotonic

    @staticmethod
    def _chance() -> Random:
        return Random()  # noqa: S311  # no secret

    def __repr__(self) -> str:
        state = "closed" if self.closed else "closing" if self.closing else "open"
        if self._binding.inherited:  # and nothing is known of the hosts
            name = f"{type(self).__module__}.{type(self).__qualname__}"
            return f"<{name} {self.dsn} {state}, started before a fork>"
        return (
            f"<{type(self).__module__}.{type(self).__qualname__} {self.dsn} {state}, "
            f"{self.master_pool_count} masters, {self.replica_pool_count} replicas>"
        )

    # Acquiring

    def acquire(
        self,
        read_only: bool = False,  # noqa: FBT001, FBT002  # positional in the public API
        fallback_master: bool | None = None,  # noqa: FBT001  # as above
        master_as_replica_weight: float | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Lease[PoolT, ConnT]:
        """Acquire a connection to a master, or with `read_only` to a replica.

        ``async with`` the result, or ``await`` it and call `release` later.

        Args:
            read_only: Whether a replica is wanted.
            fallback_master: Overrides the manager's, for this acquire.
            master_as_replica_weight: Overrides the manager's, for this acquire.
            timeout: Overrides `acquire_timeout`, for this acquire.
            kwargs: For the driver's own acquire.

        Raises:
            NotAvailableError: When used: no suitable host could serve in time.
            PoolManagerClosedError: When used: the manager is closing or closed.
            WrongEventLoopError: When used: it was started in another event loop.
        """
        if not read_only:
            return self.acquire_master(timeout, **kwargs)
        return self.acquire_replica(fallback_master, master_as_replica_weight, timeout, **kwargs)

    def acquire_master(self, timeout: float | None = None, **kwargs: Any) -> Lease[PoolT, ConnT]:
        """Acquire a connection to a master; see `acquire`."""
        seconds = (
            self._options.acquire_timeout if timeout is None else check_seconds("timeout", timeout)
        )
        return Lease(self._checkout, MASTER, seconds, kwargs)

    def acquire_replica(
        self,
        fallback_master: bool | None = None,  # noqa: FBT001  # positional in the public API
        master_as_replica_weight: float | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Lease[PoolT, ConnT]:
        """Acquire a connection to a replica, or to a master as far as allowed; see `acquire`."""
        if master_as_replica_weight is not None:
            check_share("master_as_replica_weight", master_as_replica_weight)
        request = self._request_to_read(fallback_master, master_as_replica_weight)
        seconds = (
            self._options.acquire_timeout if timeout is None else check_seconds("timeout", timeout)
        )
        return Lease(self._checkout, request, seconds, kwargs)

    async def release(self, connection: ConnT, **kwargs: Any) -> None:
        """Give a connection back that was acquired with ``await``.

        Its open transaction is rolled back and its session reset, in `release_timeout` seconds
        at most; then it is closed instead. `kwargs` go to the driver's own release.

        Raises:
            UnknownConnectionError: The connection is not lent by this manager, or was lent to
                another task since this one gave it back; a ValueError.
        """
        self._check_caller()
        await self._give_back(self._book.of(connection), connection, kwargs)

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
        if (masters_count is None) != (replicas_count is None):
            msg = "ready() takes both masters_count and replicas_count, or neither"
            raise ConfigurationError(msg)
        if masters_count is None or replicas_count is None:
            await self._wait_for("all hosts", self._all_answer, check_seconds("timeout", timeout))
            return
        masters = check_count("masters_count", masters_count)
        replicas = check_count("replicas_count", replicas_count)
        await self._wait_for(
            f"{masters} masters and {replicas} replicas",
            lambda: self.master_pool_count >= masters and self.replica_pool_count >= replicas,
            check_seconds("timeout", timeout),
        )

    async def wait_all_ready(self) -> None:
        """Wait, however long it takes, until all hosts answer."""
        await self._wait_for("all hosts", self._all_answer, None)

    async def wait_masters_ready(self, masters_count: int) -> None:
        """Wait, however long it takes, until so many masters are in routing."""
        count = check_count("masters_count", masters_count)
        await self._wait_for(f"{count} masters", lambda: self.master_pool_count >= count, None)

    async def wait_replicas_ready(self, replicas_count: int) -> None:
        """Wait, however long it takes, until so many replicas are in routing."""
        count = check_count("replicas_count", replicas_count)
        await self._wait_for(f"{count} replicas", lambda: self.replica_pool_count >= count, None)

    async def wait_next_pool_check(self, timeout: float = 10.0) -> None:
        """Wait until each host has been probed once more, with whatever outcome.

        Raises:
            NotAvailableError: Not every probe has ended after `timeout` seconds.
        """
        self._lifecycle.enter()
        await self._waits.until_probed_anew(check_seconds("timeout", timeout))

    def _all_answer(self) -> bool:
        topology, nodes = self._routing.topology, self._routing.nodes
        return topology.first_round_over and all(
            state.answers and (state.exclusion is not None or nodes[state.host].in_routing)
            for state in topology.nodes
            if not state.leaving
        )

    async def _wait_for(self, what: str, holds: Callable[[], bool], timeout: float | None) -> None:
        self._lifecycle.enter()
        await self._waits.until(
            lambda: holds() or self._waits.raise_if_all_refuse(),
            timeout,
            f"{what} not available within {timeout} s",
        )

    async def __aenter__(self) -> Self:
        fresh = not self._lifecycle.started
        try:
            await self._wait_for(
                "a host in routing",
                lambda: self.available_pool_count > 0,
                _START_TIMEOUT,
            )
        except BaseException:
            if fresh and self._lifecycle.started:
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
        if self._closing is not None:
            await asyncio.shield(self._closing)
        elif not self._lifecycle.started:
            self._lifecycle.close_unstarted()
        else:
            self._binding.check()
            await self._close(seconds)

    async def terminate(self) -> None:
        """Close without waiting for leases or servers: every connection is broken now."""
        self._check_caller()
        if not self._lifecycle.started:
            await self.close()
            return
        self._lifecycle.refuse()
        self._lifecycle.break_all()
        if self._closing is not None:
            await asyncio.shield(self._closing)
        else:
            await self._close(0.0)

    async def _close(self, seconds: float) -> None:
        lifecycle, clock = self._lifecycle, self._options.clock
        self._closing = lifecycle.loop.create_future()
        deadline = clock() + seconds
        try:
            lifecycle.refuse()
            try:
                await lifecycle.drain(seconds)
            except asyncio.CancelledError:
                deadline = clock()
                raise
            finally:
                await lifecycle.stop(deadline - clock())
                await self._returns.close()
        finally:
            self._closing.set_result(None)

    def accept_timeline(self) -> None:
        """Forget which timelines were seen, so that a master of an older one may serve again.

        For when the newer master is gone for good: its data directory was restored to an earlier
        state, or a promotion was undone on purpose.
        """
        self._check_caller()
        self._routing.accept_timeline()

    @property
    def closing(self) -> bool:
        """Whether closing has begun."""
        return self._lifecycle.closing

    @property
    def closed(self) -> bool:
        """Whether closing has ended."""
        return self._lifecycle.closed
