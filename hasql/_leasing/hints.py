"""The hints: what errors in the use of lent connections tell of their hosts."""

from typing import Generic

from hasql._leasing.book import LeaseBook
from hasql._leasing.met_errors import Met, MetErrors
from hasql._leasing.options import Signal
from hasql._routing.node import Node
from hasql._routing.request import MASTER
from hasql.driver import ConnT, Driver, Failure, PoolT
from hasql.driver.failure import SessionLimitError
from hasql.driver.judgement import judged, sqlstate_of

__all__ = ("Hints", "is_on_standby")


class Hints(Generic[PoolT, ConnT]):
    """Judges the errors that applications meet: hints worth a probe, never a verdict."""

    def __init__(
        self,
        driver: Driver[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        signal: Signal,
        met: MetErrors | None = None,
    ) -> None:
        self._driver = driver
        self._book = book
        self._signal = signal
        #: Those that only their lease can explain, of all leases of a manager.
        self.met = met or MetErrors()

    def heard(self, node: Node[PoolT, ConnT], connection: ConnT, error: BaseException) -> None:
        """Take note of an exception in the use of a connection of a node's pool."""
        failure = self.judged(node, connection, error)
        if isinstance(error, SessionLimitError):
            lease = self._book.find(connection)
            if lease is not None:
                lease.at_its_limit = True
        elif failure is Failure.BROKEN:
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
                    self.met.note(error, Met.ON_STANDBY)

    def judged(self, node: Node[PoolT, ConnT], connection: ConnT, error: BaseException) -> Failure:
        """Say what an exception tells of the host, in the use of a connection of its pool.

        On one that is gone, whatever the driver says by itself is about that: psycopg2 that a
        cursor is closed, asyncpg that an operation is in progress. Applications mend that by doing
        it again, too, so it is noted. Where the session has come to a limit of its own, or the
        lease to that of `leak_action`, nothing that is said without the server is about the host.
        """
        failure, code = judged(self._driver, error), sqlstate_of(self._driver, error)
        lease = self._book.find(connection)
        if lease is not None and lease.terminated and (failure is Failure.BROKEN or not code):
            self.met.note(error, Met.ON_TERMINATED)
            return Failure.LIMIT
        if code:
            return failure
        limited = lease is not None and lease.at_its_limit
        if failure is Failure.OTHER and code == "":
            if lease is not None and lease.node is not None:
                node = lease.node  # another pool may have taken the place of the one it came from
            if node.pool is not None and node.pool.is_closed(connection):
                self.met.note(error, Met.ON_LOST)
                failure = Failure.BROKEN
        return Failure.LIMIT if limited else failure

    def note_sound(self, error: BaseException) -> None:
        """Take note that an exception has ended the use of a connection that is sound.

        An OSError that is not the driver's is then a file's, say, or another service's. But who is
        out of time may have waited for a silent host.
        """
        foreign = isinstance(error, OSError) and sqlstate_of(self._driver, error) is None
        if foreign and not isinstance(error, TimeoutError):
            self.met.note(error, Met.ON_SOUND)


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
