"""Makers of sessions of SQLAlchemy's ORM on leases, for tasks and threads alike."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeAlias, TypeVar

from hasql._adapters.sqlalchemy.arguments import refuse_binds, refuse_for_routing
from hasql._adapters.sqlalchemy.reads import ProvableReads
from hasql._adapters.sqlalchemy.session_route import RouteRules, SessionRoute, is_routed
from hasql._adapters.sqlalchemy.session_runs import ReplicaFirstLeases, RunPlan
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hasql._adapters.sqlalchemy.replica_binds import Leases

__all__ = ("Acquires", "Route", "SessionMaker")

_LeaseT = TypeVar("_LeaseT")
_LeaseT_co = TypeVar("_LeaseT_co", covariant=True)
_BlockT = TypeVar("_BlockT")
#: What says where a session's statements go: the caller of the maker, or the statements.
Route: TypeAlias = Literal["explicit", "auto"]


class Acquires(Protocol[_LeaseT_co]):
    """What sessions need of a pool manager."""

    @property
    def pool_factory_kwargs(self) -> Mapping[str, Any]:
        """The arguments of the engines."""

    @property
    def runs(self) -> Any:
        """The object that runs units of work."""

    @property
    def available_pool_count(self) -> int:
        """How many hosts are in routing."""

    @property
    def replica_pool_count(self) -> int:
        """How many replicas are in routing."""

    def acquire(
        self,
        read_only: bool = ...,  # noqa: FBT001  # as the pool manager's own
        fallback_master: bool | None = ...,  # noqa: FBT001  # as above
        master_as_replica_weight: float | None = ...,
        timeout: float | None = ...,
    ) -> _LeaseT_co:
        """Lease a connection."""


class SessionMaker(Generic[_LeaseT, _BlockT]):
    """Makes sessions, each for one block."""

    _leases: ClassVar[Leases]

    def __init__(
        self,
        pool_manager: Acquires[_LeaseT],
        class_: type[Any],
        route: Route,
        read_functions: Iterable[str],
        kwargs: dict[str, Any],
    ) -> None:
        refuse_binds(kwargs)
        if route not in ("explicit", "auto"):
            raise ConfigurationError(f'route must be "explicit" or "auto", not {route!r}')
        self._manager = pool_manager
        self._class = class_
        self._kwargs = kwargs
        self._reads = ProvableReads(read_functions)
        self._is_routed = route == "auto"
        if self._is_routed:
            refuse_for_routing(kwargs)
            self._routed_class(kwargs)
        elif read_functions:
            raise ConfigurationError('read_functions need route="auto": use it, or drop them')

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._class.__name__} on {self._manager!r}>"

    def __call__(
        self,
        read_only: bool | None = None,  # noqa: FBT001  # as the pool manager's acquire
        fallback_master: bool | None = None,  # noqa: FBT001  # as above
        master_as_replica_weight: float | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> _BlockT:
        """Make a session for a block.

        Args:
            read_only: Whether the session is on a replica or on the master. None: on the master, or
                where its statements may go, as the maker's `route` says.
            fallback_master: For the pool manager's `acquire`. None: the manager's own setting, but
                a session that routes itself reads from a master where there is no replica.
            master_as_replica_weight: For the pool manager's `acquire`.
            timeout: The same, in seconds; for each acquire of a session that routes itself.
            kwargs: Arguments of this session, which override those given to the maker.

        Raises:
            NotAvailableError: On entering, or with the first statement where the session routes
                itself: no suitable host could serve in time.
            ConfigurationError: An argument cannot work, such as `bind` or `binds`.
        """
        return self._block(
            read_only, (fallback_master, master_as_replica_weight, timeout), kwargs, commit=False
        )

    def begin(
        self,
        read_only: bool | None = None,  # noqa: FBT001  # as the pool manager's acquire
        fallback_master: bool | None = None,  # noqa: FBT001  # as above
        master_as_replica_weight: float | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> _BlockT:
        """Make a session in a transaction, which is committed unless an exception leaves the block.

        The arguments and errors are those of calling the maker.
        """
        return self._block(
            read_only, (fallback_master, master_as_replica_weight, timeout), kwargs, commit=True
        )

    def _block(
        self,
        read_only: bool | None,  # noqa: FBT001  # as above
        given: tuple[bool | None, float | None, float | None],
        kwargs: dict[str, Any],
        *,
        commit: bool,
    ) -> _BlockT:
        refuse_binds(kwargs)
        kwargs = {**self._kwargs, **kwargs}
        if not self._is_routed or read_only is not None:
            lease = self._manager.acquire(bool(read_only), *given)
            return self._session(lease, kwargs, commit=commit)
        refuse_for_routing(kwargs)
        routed_class = self._routed_class(kwargs)
        levels = self._manager.pool_factory_kwargs, kwargs
        rules = RouteRules(self._reads, self._leases, all(map(is_routed, levels)))
        route = SessionRoute(rules, partial(self._acquire, *given))
        return self._routed_session(routed_class, route, kwargs, commit=commit)

    def _acquire(
        self,
        fallback_master: bool | None,  # noqa: FBT001  # as above
        master_as_replica_weight: float | None,
        timeout: float | None,
        *,
        replica: bool,
    ) -> _LeaseT | None:
        """Make a lease for a session that routes itself; None: there is no replica to read from."""
        fallback = True if fallback_master is None else fallback_master
        manager = self._manager
        if replica and fallback and manager.available_pool_count and not manager.replica_pool_count:
            return None
        return manager.acquire(replica, fallback, master_as_replica_weight, timeout)

    def _plan_run(self, read_only: bool | None, isolation: str | None) -> RunPlan:  # noqa: FBT001  # as above
        """Plan where the attempts of a run go, and how their sessions are made."""
        kwargs, manager = self._kwargs, self._manager
        if kwargs.get("twophase"):
            raise ConfigurationError("run() ends its session's transaction itself: drop 'twophase'")
        acquire = manager.acquire
        lease_master: Callable[[float], _LeaseT] = partial(acquire, False, None, None)  # noqa: FBT003  # as above
        levels = manager.pool_factory_kwargs, kwargs, {"isolation_level": isolation}
        if read_only is None and self._is_routed and all(map(is_routed, levels)):
            routed_class = self._routed_class(kwargs)
            leases = ReplicaFirstLeases(
                partial(self._acquire, None, None, replica=True), lease_master
            )
            return RunPlan(leases, lease_master, kwargs, routed_class, self._reads)
        first = partial(acquire, True, None, None) if read_only else lease_master  # noqa: FBT003  # as above
        return RunPlan(first, lease_master, kwargs, None, self._reads)

    @abstractmethod
    def _routed_class(self, kwargs: dict[str, Any]) -> type[Any]:
        """Return a class of SQLAlchemy's own sessions that route themselves.

        Raises ConfigurationError.
        """

    @abstractmethod
    def _session(self, lease: _LeaseT, kwargs: dict[str, Any], *, commit: bool) -> _BlockT:
        """Make a block with a session on a lease; with `commit`, it commits at its end."""

    @abstractmethod
    def _routed_session(
        self, routed_class: type[Any], route: SessionRoute, kwargs: dict[str, Any], *, commit: bool
    ) -> _BlockT:
        """Make a block with a session that routes itself; with `commit`, it commits at its end."""
