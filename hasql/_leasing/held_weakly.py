"""Leases that hold their connection only weakly, so that hasql can tell when it is dropped."""

from typing import Any
from weakref import ReferenceType, ref

from hasql._leasing.async_lease import AsyncLease
from hasql._leasing.lease import Lease
from hasql._leasing.thread_lease import ThreadLease
from hasql.driver import ConnT, PoolT

__all__ = ("hold_weakly",)


class _HeldWeakly(Lease[PoolT, ConnT]):
    """Holds its connection weakly, until it is given another one."""

    _weak: ReferenceType[Any] | None = None
    _strong: Any = None

    @property
    def connection(self) -> ConnT | None:
        """The connection that is lent; None: there is none, or the application has dropped it."""
        weak = self._weak
        return self._strong if weak is None else weak()

    @connection.setter
    def connection(self, connection: ConnT | None) -> None:
        self._weak, self._strong = None, connection


class _WeakAsyncLease(_HeldWeakly[PoolT, ConnT], AsyncLease[PoolT, ConnT]):
    """The lease of a task."""


class _WeakThreadLease(_HeldWeakly[PoolT, ConnT], ThreadLease[PoolT, ConnT]):
    """The lease of a thread."""


_WEAK: dict[type[Lease[Any, Any]], type[_HeldWeakly[Any, Any]]] = {
    AsyncLease: _WeakAsyncLease,
    ThreadLease: _WeakThreadLease,
}


def hold_weakly(lease: Lease[PoolT, ConnT]) -> None:
    """Hold a lease's connection weakly from now on, so that only the application keeps it alive.

    This changes the class of the lease, so that other leases do not pay for the property. Most do
    not need it: a block gives its connection back whether the application holds it or not.
    """
    weak, connection = _WEAK.get(type(lease)), lease.connection
    if weak is None or connection is None:
        return
    vars(lease).pop("connection", None)
    lease.__class__ = weak
    lease._weak = ref(connection)  # type: ignore[attr-defined]  # noqa: SLF001  # that class has it
