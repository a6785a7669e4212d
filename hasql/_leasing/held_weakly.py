"""Leases that let go of what they have lent, so that it can be told when nobody has it any more."""

from typing import Any
from weakref import ReferenceType, ref

from hasql._leasing.async_lease import AsyncLease
from hasql._leasing.lease import Lease
from hasql._leasing.thread_lease import ThreadLease
from hasql.driver import ConnT, PoolT

__all__ = ("let_go",)


class _HeldWeakly(Lease[PoolT, ConnT]):
    """Holds its connection weakly, until it is given one anew."""

    _weak: ReferenceType[Any] | None = None
    _strong: Any = None

    @property
    def connection(self) -> ConnT | None:
        """What is lent; None: nothing, or what the application has dropped."""
        weak = self._weak
        return self._strong if weak is None else weak()

    @connection.setter
    def connection(self, connection: ConnT | None) -> None:
        self._weak, self._strong = None, connection


class _WeakAsyncLease(_HeldWeakly[PoolT, ConnT], AsyncLease[PoolT, ConnT]):
    """A task's."""


class _WeakThreadLease(_HeldWeakly[PoolT, ConnT], ThreadLease[PoolT, ConnT]):
    """A thread's."""


_WEAK: dict[type[Lease[Any, Any]], type[_HeldWeakly[Any, Any]]] = {
    AsyncLease: _WeakAsyncLease,
    ThreadLease: _WeakThreadLease,
}


def let_go(lease: Lease[PoolT, ConnT]) -> None:
    """Leave it to the application alone to hold what a lease has lent.

    The lease is of another class then, as most need not pay for that: a block gives its connection
    back whether the application holds it or not.
    """
    weak, connection = _WEAK.get(type(lease)), lease.connection
    if weak is None or connection is None:
        return
    vars(lease).pop("connection", None)
    lease.__class__ = weak
    lease._weak = ref(connection)  # type: ignore[attr-defined]  # noqa: SLF001  # of that class
