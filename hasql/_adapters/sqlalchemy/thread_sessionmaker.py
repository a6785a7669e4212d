"""Sessions of SQLAlchemy's ORM for threads, each on a lease."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from sqlalchemy.orm import Session

from hasql._adapters.sqlalchemy.arguments import refuse_binds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection

__all__ = ("sessionmaker",)

_S = TypeVar("_S", bound=Session)
_S2 = TypeVar("_S2", bound=Session)


class _AcquiresForThread(Protocol):
    """What sessions need of a pool manager."""

    def acquire(
        self,
        read_only: bool = ...,  # noqa: FBT001  # as the pool manager's own
        fallback_master: bool | None = ...,  # noqa: FBT001  # as above
        master_as_replica_weight: float | None = ...,
        timeout: float | None = ...,
    ) -> AbstractContextManager[Connection]:
        """Lease a connection."""


class sessionmaker(Generic[_S]):  # noqa: N801  # the name of SQLAlchemy's own
    """Makes sessions, each of which has one connection of a pool manager's from begin to end.

    Like SQLAlchemy's own of this name, but the sessions are for ``with`` alone, as that is
    where a connection is acquired and given back::

        Session = sessionmaker(pool_manager, expire_on_commit=False)

        with Session() as session:  # on the master
            session.add(user)
            session.commit()

        with Session.begin() as session:  # the same, and commits at the end
            session.add(user)

        with Session(read_only=True) as session:  # on a replica
            users = session.scalars(select(User))

    What is not committed at the end of the block is rolled back.

    Args:
        pool_manager: Where connections come from.
        class_: The class of the sessions.
        kwargs: For each session, as SQLAlchemy's `Session` takes them; not `bind` or `binds`.

    Raises:
        ConfigurationError: `bind` or `binds` was given.
    """

    @overload
    def __init__(
        self: sessionmaker[_S2],
        pool_manager: _AcquiresForThread,
        *,
        class_: type[_S2],
        **kwargs: Any,
    ) -> None: ...

    @overload
    def __init__(
        self: sessionmaker[Session], pool_manager: _AcquiresForThread, **kwargs: Any
    ) -> None: ...

    def __init__(
        self, pool_manager: _AcquiresForThread, *, class_: type[Any] = Session, **kwargs: Any
    ) -> None:
        refuse_binds(kwargs)
        self._manager = pool_manager
        self._class = class_
        self._kwargs = kwargs

    def __repr__(self) -> str:
        return f"<sessionmaker of {self._class.__name__} on {self._manager!r}>"

    def __call__(
        self,
        read_only: bool = False,  # noqa: FBT001, FBT002  # as the pool manager's acquire
        fallback_master: bool | None = None,  # noqa: FBT001  # as above
        master_as_replica_weight: float | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> AbstractContextManager[_S]:
        """Make a session for ``with``, on the master, or on a replica if `read_only`.

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
        return self._session(lease, kwargs, commit=False)

    def begin(
        self,
        read_only: bool = False,  # noqa: FBT001, FBT002  # as the pool manager's acquire
        fallback_master: bool | None = None,  # noqa: FBT001  # as above
        master_as_replica_weight: float | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> AbstractContextManager[_S]:
        """Make a session in a transaction, which is committed unless an exception leaves the block.

        The arguments and errors are those of calling the maker.
        """
        refuse_binds(kwargs)
        lease = self._manager.acquire(read_only, fallback_master, master_as_replica_weight, timeout)
        return self._session(lease, kwargs, commit=True)

    @contextmanager
    def _session(
        self,
        lease: AbstractContextManager[Connection],
        kwargs: dict[str, Any],
        *,
        commit: bool,
    ) -> Iterator[_S]:
        session: _S | None = None
        try:
            with lease as connection:
                session = self._class(bind=connection, **{**self._kwargs, **kwargs})
                transaction = session.begin().__enter__() if commit else None
                yield session
                if transaction is not None:
                    transaction.__exit__(None, None, None)
        finally:
            # Giving the connection back has ended its transaction, so this needs no server.
            if session is not None:
                session.close()
