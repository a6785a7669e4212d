"""The facade: the API that the pool managers for tasks and for threads have in common."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from random import Random
from time import monotonic
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from hasql._leasing.lease import Lease
from hasql._manager.assembly import Parts
from hasql._manager.options import (
    Options,
    apply_session,
    frozen_kwargs,
    never_master_hosts,
    policy_of,
)
from hasql._manager.pool_access import PoolAccess
from hasql._manager.wanted_settings import wanted_by, wanted_by_all
from hasql._probing.followed_names import NameSource
from hasql._probing.name_sources import source_of_names
from hasql._routing.request import MASTER, REPLICA_OR_MASTER
from hasql.balancer_policy import BaseBalancerPolicy, GreedyBalancerPolicy
from hasql.cluster.checks import check_flag, check_seconds, check_share
from hasql.cluster.dsn import Dsn
from hasql.cluster.state import Rules
from hasql.discovery import Discovery
from hasql.discovery.choice import choose_source
from hasql.dns import Resolver
from hasql.driver import ConnT, Driver, PoolT
from hasql.driver.credentials import CredentialSource
from hasql.resilience.admission import Admission
from hasql.resilience.breaker import Breaker
from hasql.resilience.error_rules import Category
from hasql.resilience.lifecycle import Lifecycle
from hasql.resilience.options import Credentials, ResilienceOptions
from hasql.resilience.rate_limit import RateLimit
from hasql.resilience.session_defaults import SessionDefaults

__all__ = ("Facade", "HasArguments", "LeaseT")

LeaseT = TypeVar("LeaseT", bound=Lease[Any, Any])


class HasArguments(Protocol):
    """An object that holds the arguments of a manager, such as `hasql.settings.Settings`."""

    def arguments(self) -> Mapping[str, Any]:
        """Return the keyword arguments of a pool manager."""


class Facade(PoolAccess[PoolT, ConnT], Generic[PoolT, ConnT, LeaseT]):
    """The part of a pool manager's API that is the same for tasks and for threads.

    Its arguments are described at `hasql.base.BasePoolManager`.
    """

    _driver: ClassVar[Driver[Any, Any]]
    #: Whether the driver's own library reads a '+' in the query of a URL as a space.
    _plus_is_space: ClassVar[bool] = False

    # long: most lines are one argument each
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
        session: SessionDefaults | None = None,
        credentials: Credentials | None = None,
        lifecycle: Lifecycle | None = None,
        admission: Admission | None = None,
        rate_limit: RateLimit | None = None,
        breaker: Breaker | None = None,
        report_every: float | None = None,
    ) -> None:
        parsed = Dsn.parse(dsn, plus_is_space=self._plus_is_space, hosts_needed=discovery is None)
        kwargs = frozen_kwargs(pool_factory_kwargs)
        parsed, settings = apply_session(parsed, session, kwargs)
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
            pool_factory_kwargs=kwargs,
            release_timeout=release_timeout,
            rules=Rules(
                fencing=fencing,
                allow_several_clusters=allow_several_clusters,
                never_master=never_master_hosts(never_master, parsed.hosts if listed else None),
                lease_abort_after=lease_abort_after,
            ),
            name_source=name_source if follow_names else None,
            resilience=ResilienceOptions(
                session=session,
                credentials=credentials,
                lifecycle=lifecycle,
                admission=admission,
                rate_limit=rate_limit,
                breaker=breaker,
                report_every=report_every,
            ),
            settings=settings,
            credentials=None if credentials is None else CredentialSource(credentials),
            clock=self._clock(),
            chance=self._chance(),
        )
        self._discovery = source
        #: What each acquire wants of its session. None: nothing.
        self._lease_settings = wanted_by_all(session)
        super().__init__(options, self._assemble(options, self._driver_of(parsed), source))
        options.balancer_policy.serve(options.chance)

    @classmethod
    def from_settings(cls, settings: HasArguments) -> Self:
        """Make a manager from `hasql.settings.Settings`, or from your own object like it.

        Raises:
            TypeError: The object has no `arguments()`.
            ConfigurationError: As when the same arguments are given to the constructor.
        """
        if not callable(getattr(settings, "arguments", None)):
            msg = f"from_settings takes a hasql.settings.Settings(), not {type(settings).__name__}"
            raise TypeError(msg)
        return cls(**settings.arguments())

    @abstractmethod
    def _assemble(
        self, options: Options, driver: Driver[PoolT, ConnT], source: Discovery
    ) -> Parts[PoolT, ConnT]:
        """Put the parts of this face together."""

    @property
    @abstractmethod
    def _new_lease(self) -> Callable[..., LeaseT]:
        """The class of the leases of this face."""

    def _driver_of(self, dsn: Dsn) -> Driver[PoolT, ConnT]:  # noqa: ARG002  # for subclasses
        """Choose the driver for a DSN."""
        return self._driver

    @staticmethod
    def _name_source(resolver: Resolver | None, /) -> Callable[[], NameSource] | None:
        """Return a function that makes the source of addresses, once there is a name to follow."""
        return source_of_names(resolver)

    # The only clock of a manager, and its only source of chance; a simulation has its own.

    @staticmethod
    def _clock() -> Callable[[], float]:
        return monotonic

    @staticmethod
    def _chance() -> Random:
        return Random()  # noqa: S311  # no secret

    def __repr__(self) -> str:
        state = "closed" if self.closed else "closing" if self.closing else "open"
        if self._binding.inherited:  # where nothing is known of the hosts
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
        *,
        session: SessionDefaults | None = None,
        **kwargs: Any,
    ) -> LeaseT:
        """Acquire a connection to a master, or with `read_only` to a replica.

        Use the result with ``async with``, or with ``await`` and a later `release`. In threads, use
        it with ``with``.

        Args:
            read_only: Whether a replica is wanted.
            fallback_master: Overrides the manager's value, for this acquire.
            master_as_replica_weight: Overrides the manager's value, for this acquire.
            timeout: Overrides `acquire_timeout`, in seconds, for this acquire.
            session: Overrides the manager's `session` for this lease, in the settings that it
                names. That costs a round trip, and another to undo it on return.
            kwargs: Arguments for the driver's own acquire.

        Raises:
            ConfigurationError: When used: the host is behind a pooler, so `session` cannot be set.
            NotAvailableError: When used: no suitable host could serve in time.
            PoolManagerClosedError: When used: the manager is closing or closed.
            WrongEventLoopError: When used: the manager was started in another event loop.
        """
        if not read_only:
            return self.acquire_master(timeout, session=session, **kwargs)
        return self.acquire_replica(
            fallback_master, master_as_replica_weight, timeout, session=session, **kwargs
        )

    def acquire_master(
        self,
        timeout: float | None = None,
        *,
        session: SessionDefaults | None = None,
        **kwargs: Any,
    ) -> LeaseT:
        """Acquire a connection to a master; see `acquire`."""
        seconds = (
            self._options.acquire_timeout if timeout is None else check_seconds("timeout", timeout)
        )
        lease = self._new_lease(self._checkout, MASTER, seconds, kwargs)
        lease.settings = self._lease_settings
        if session is not None:
            lease.settings = wanted_by(session, lease)
        return lease

    def acquire_replica(
        self,
        fallback_master: bool | None = None,  # noqa: FBT001  # positional in the public API
        master_as_replica_weight: float | None = None,
        timeout: float | None = None,
        *,
        session: SessionDefaults | None = None,
        **kwargs: Any,
    ) -> LeaseT:
        """Acquire a connection to a replica, or to a master where allowed; see `acquire`."""
        if master_as_replica_weight is not None:
            check_share("master_as_replica_weight", master_as_replica_weight)
        request = self._request_to_read(fallback_master, master_as_replica_weight)
        seconds = (
            self._options.acquire_timeout if timeout is None else check_seconds("timeout", timeout)
        )
        lease = self._new_lease(self._checkout, request, seconds, kwargs)
        lease.settings = self._lease_settings
        if session is not None:
            lease.settings = wanted_by(session, lease)
        return lease

    def acquire_from_pool(
        self, pool: PoolT, *, session: SessionDefaults | None = None, **kwargs: Any
    ) -> LeaseT:
        """Acquire a connection of this one pool, whatever the role of its host.

        The result is used like that of `acquire`. The acquire takes at most `acquire_timeout`
        seconds; `kwargs` go to the driver's own acquire. If `resize` has put another pool in the
        place of this one meanwhile, the connection comes from that pool.
        """
        timeout = self._options.acquire_timeout
        node = self._node_of(pool)
        lease = self._new_lease(self._checkout, REPLICA_OR_MASTER, timeout, kwargs)
        lease.fixed_node = node
        lease.settings = self._lease_settings
        if session is not None:
            lease.settings = wanted_by(session, lease)
        return lease

    # The leases for an attempt of `run`, which has so many seconds to get one

    def _lease_to_read(self, seconds: float) -> LeaseT:
        return self.acquire_replica(timeout=seconds)

    def _lease_to_write(self, seconds: float) -> LeaseT:
        lease = self._new_lease(self._checkout, MASTER, seconds, {})
        lease.settings = self._lease_settings
        return lease

    # What exceptions mean

    def category(self, error: BaseException) -> Category:
        """Return the category of an exception that hasql, or a connection of this manager, raised.

        If the exception has ended a lease of this manager, hasql knows that lease: so it can tell
        that a master refused to write (25006) because it no longer is one, or that the driver
        complained of something else on a connection that was lost. Any other exception is
        `APPLICATION`.
        """
        return self._runs.rules.kind(error).category

    def retriable(self, error: BaseException) -> bool:
        """Tell whether `run` would try again after this exception, unless COMMIT has raised it."""
        return self._runs.rules.kind(error).retried

    @property
    def closing(self) -> bool:
        """Whether closing has begun."""
        return self._lifetime.closing

    @property
    def closed(self) -> bool:
        """Whether closing has ended."""
        return self._lifetime.closed
