"""The hints: what errors in the use of lent connections tell of their hosts."""

from collections.abc import Callable
from typing import Generic

from hasql.cluster.dsn import HostSpec
from hasql.driver import ConnT, Driver, Failure, PoolT
from hasql.lease import LeaseBook
from hasql.node import Node
from hasql.router import MASTER

__all__ = ("Hints",)


class Hints(Generic[PoolT, ConnT]):
    """Judges the errors that applications meet: hints worth a probe, never a verdict."""

    def __init__(
        self,
        driver: Driver[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        signal: Callable[[HostSpec], bool],
    ) -> None:
        self._driver = driver
        self._book = book
        self._signal = signal

    def heard(self, node: Node[PoolT, ConnT], connection: ConnT, error: BaseException) -> None:
        """Take note of an exception in the use of a connection of a node's pool."""
        lease, failure = self._book.find(connection), self._driver.failure(error)
        if failure is Failure.READ_ONLY and lease is not None and lease.wanted is MASTER:
            lease.expired = True
            self._signal(node.host)
        elif failure is Failure.BROKEN:
            self._signal(node.host)
