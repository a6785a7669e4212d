"""The hints: what errors in the use of lent connections tell of their hosts."""

from typing import Generic

from hasql._leasing.book import LeaseBook
from hasql._leasing.met_errors import MetErrors
from hasql._leasing.options import Signal
from hasql._routing.node import Node
from hasql._routing.request import MASTER
from hasql.driver import ConnT, Driver, Failure, PoolT
from hasql.driver.judgement import judged

__all__ = ("Hints", "is_on_standby")


class Hints(Generic[PoolT, ConnT]):
    """Judges the errors that applications meet: hints worth a probe, never a verdict."""

    def __init__(
        self,
        driver: Driver[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        signal: Signal,
    ) -> None:
        self._driver = driver
        self._book = book
        self._signal = signal
        #: Those that only their lease can explain.
        self.met = MetErrors()

    def heard(self, node: Node[PoolT, ConnT], connection: ConnT, error: BaseException) -> None:
        """Take note of an exception in the use of a connection of a node's pool."""
        failure = judged(self._driver, error)
        if failure is Failure.BROKEN:
            self._signal(node.host)
            if node.pool is not None:  # it need not have ended, if the error is another service's
                node.pool.destinations.doubt(node.pool.key(connection))
        elif failure is Failure.READ_ONLY:
            lease = self._book.find(connection)
            if lease is not None and lease.request is MASTER and not _writes(node, connection):
                # Nobody knows which server is next behind a pooler: one more login changes nothing.
                lease.expired = not node.pooled
                self._signal(node.host)
                if is_on_standby(node, connection):
                    self.met.note_on_standby(error)


def is_on_standby(node: Node[PoolT, ConnT], connection: ConnT) -> bool:
    """Tell whether a connection's server has said itself that it is a standby."""
    pool = node.pool
    if pool is None or node.flag_lies or pool.is_closed(connection):
        return False
    return pool.in_hot_standby(connection) is True


def _writes(node: Node[PoolT, ConnT], connection: ConnT) -> bool:
    """Tell whether a connection's server takes writes, as it has said itself.

    Then only the transaction does not: it is the application's own, or its session's default. The
    flag came with the same answer as the error, but through a pooler it may be of another server.
    """
    pool = node.pool
    if pool is None or node.flag_lies or node.pooled or pool.is_closed(connection):
        return False
    # Read-only by a default that it was opened with: another may have been set since.
    if pool.destinations.was_opened_read_only(pool.key(connection)):
        return False
    return pool.in_hot_standby(connection) is False
