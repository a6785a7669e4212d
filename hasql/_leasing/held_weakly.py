"""Leases that let go of what they have lent, so that it can be told when nobody has it any more."""

from typing import Any
from weakref import ReferenceType, ref

from hasql._leasing.async_lease import AsyncLease
from hasql._leasing.lease import Lease
from hasql._leasing.thread_lease import ThreadLease
from hasql.driver import ConnT, PoolT

__all__ = ("WeakAsyncLease", "WeakThreadLease")


class _HeldWeakly(Lease[PoolT, ConnT]):
    """Holds its connection weakly once it is lent, where the pool tells when that is dropped."""

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

    def let_go(self) -> None:
        """Leave it to the application alone to hold what is lent, if the pool tells of drops.

        A block gives its connection back whether the application holds it or not.
        """
        if self.awaited and self.node is not None and self.node.tells_of_drops:
            self._weak, self._strong = ref(self._strong), None


class WeakAsyncLease(_HeldWeakly[PoolT, ConnT], AsyncLease[PoolT, ConnT]):
    """A task's lease, in a manager that watches them."""


class WeakThreadLease(_HeldWeakly[PoolT, ConnT], ThreadLease[PoolT, ConnT]):
    """A thread's lease, in a manager that watches them."""
