"""The hints: what errors in the use of lent connections tell of their hosts."""

from typing import Generic, Protocol

from hasql.cluster.dsn import HostSpec
from hasql.driver import ConnT, Driver, Failure, PoolT
from hasql.lease import LeaseBook
from hasql.router import MASTER

__all__ = ("Hints", "Signal")


class Signal(Protocol):
    """Takes note that something may have changed on a host, or on any."""

    def __call__(self, host: HostSpec | None) -> bool:
        """Return whether it is probed at once."""
        ...


class Hints(Generic[PoolT, ConnT]):
    """Judges the errors that applications meet: hints worth a probe, never a verdict."""

    def __init__(
        self, driver: Driver[PoolT, ConnT], book: LeaseBook[PoolT, ConnT], signal: Signal
    ) -> None:
        self._driver = driver
        self._book = book
        self._signal = signal

    def heard(self, connection: ConnT, error: BaseException) -> None:
        """Take note of an exception in the use of a lent connection."""
        lease, failure = self._book.find(connection), self._driver.failure(error)
        host = lease.node.host if lease is not None and lease.node is not None else None
        if failure is Failure.READ_ONLY and lease is not None and lease.wanted is MASTER:
            lease.expired = True
            self._signal(host)
        elif failure is Failure.BROKEN:
            self._signal(host)
