"""What makes sessions of SQLAlchemy's ORM, each on a lease; for tasks and threads alike."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, Protocol, TypeVar

from hasql._adapters.sqlalchemy.arguments import refuse_binds

__all__ = ("Acquires", "SessionMaker")

_LeaseT = TypeVar("_LeaseT")
_LeaseT_co = TypeVar("_LeaseT_co", covariant=True)
_BlockT = TypeVar("_BlockT")


class Acquires(Protocol[_LeaseT_co]):
    """What sessions need of a pool manager."""

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

    def __init__(
        self, pool_manager: Acquires[_LeaseT], class_: type[Any], kwargs: dict[str, Any]
    ) -> None:
        refuse_binds(kwargs)
        self._manager = pool_manager
        self._class = class_
        self._kwargs = kwargs

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._class.__name__} on {self._manager!r}>"

    def __call__(
        self,
        read_only: bool = False,  # noqa: FBT001, FBT002  # as the pool manager's acquire
        fallback_master: bool | None = None,  # noqa: FBT001  # as above
        master_as_replica_weight: float | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> _BlockT:
        """Make a session for a block, on the master, or on a replica if `read_only`.

        Args:
            read_only: As the next three, for the pool manager's `acquire`.
            fallback_master: See `read_only`.
            master_as_replica_weight: See `read_only`.
            timeout: See `read_only`.
            kwargs: For this session, before those that were given for all.

        Raises:
            NotAvailableError: On entering: no suitable host could serve in time.
            ConfigurationError: `bind` or `binds` was given.
        """
        refuse_binds(kwargs)
        lease = self._manager.acquire(read_only, fallback_master, master_as_replica_weight, timeout)
        return self._session(lease, {**self._kwargs, **kwargs}, commit=False)

    def begin(
        self,
        read_only: bool = False,  # noqa: FBT001, FBT002  # as the pool manager's acquire
        fallback_master: bool | None = None,  # noqa: FBT001  # as above
        master_as_replica_weight: float | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> _BlockT:
        """Make a session in a transaction, which is committed unless an exception leaves the block.

        The arguments and errors are those of calling the maker.
        """
        refuse_binds(kwargs)
        lease = self._manager.acquire(read_only, fallback_master, master_as_replica_weight, timeout)
        return self._session(lease, {**self._kwargs, **kwargs}, commit=True)

    @abstractmethod
    def _session(self, lease: _LeaseT, kwargs: dict[str, Any], *, commit: bool) -> _BlockT:
        """Make a block that has a session on a lease, and commits at its end if it is to."""
