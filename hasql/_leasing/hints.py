"""The hints: what errors in the use of lent connections say about their hosts."""

from typing import Generic

from hasql._leasing.book import LeaseBook
from hasql._leasing.error_origins import ErrorOrigin, ErrorOrigins
from hasql._leasing.options import Signal
from hasql._routing.node import Node
from hasql._routing.request import MASTER
from hasql.driver import ConnT, Driver, Failure, PoolT
from hasql.driver.failure import SessionLimitError
from hasql.driver.judgement import judge_error, sqlstate_of

__all__ = ("Hints", "is_on_standby")


class Hints(Generic[PoolT, ConnT]):
    """Judges the errors that applications meet. They are worth a probe, but never a verdict."""

    def __init__(
        self,
        driver: Driver[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        signal: Signal,
        origins: ErrorOrigins | None = None,
    ) -> None:
        self._driver = driver
        self._book = book
        self._signal = signal
        #: The errors that only their lease can explain, of all leases of a manager.
        self.origins = origins or ErrorOrigins()

    def note_error(self, node: Node[PoolT, ConnT], connection: ConnT, error: BaseException) -> None:
        """Take note of an exception in the use of a connection of a node's pool."""
        failure = self.judge(node, connection, error)
        if isinstance(error, SessionLimitError):
            lease = self._book.find(connection)
            if lease is not None:
                lease.hit_session_limit = True
        elif failure is Failure.BROKEN:
            self._signal(node.host)
            if node.pool is not None:  # it may still be open, if the error is another service's
                node.pool.destinations.note_maybe_dead(node.pool.key(connection))
        elif failure is Failure.READ_ONLY:
            lease = self._book.find(connection)
            if lease is not None and lease.request is MASTER and not _writes(node, connection):
                # Behind a pooler any server may be next, so one more login would change nothing.
                lease.expired = not node.pooled
                self._signal(node.host)
                if is_on_standby(node, connection):
                    self.origins.note(error, ErrorOrigin.STANDBY)

    def judge(self, node: Node[PoolT, ConnT], connection: ConnT, error: BaseException) -> Failure:
        """Say what an exception in the use of a connection tells of the host.

        If the connection is gone, any error that the driver raises by itself is about that loss:
        psycopg2 says that a cursor is closed, asyncpg that an operation is in progress. Trying
        again helps against those, too, so they are noted. If the session has reached a limit of its
        own, or `leak_action` has ended the lease, an error that does not come from the server says
        nothing about the host.
        """
        failure, code = judge_error(self._driver, error), sqlstate_of(self._driver, error)
        lease = self._book.find(connection)
        if lease is not None and lease.terminated and (failure is Failure.BROKEN or not code):
            self.origins.note(error, ErrorOrigin.TERMINATED_LEASE)
            return Failure.LIMIT
        if code:
            return failure
        limited = lease is not None and lease.hit_session_limit
        if failure is Failure.OTHER and code == "":
            if lease is not None and lease.node is not None:
                node = lease.node  # the connection's own; the other may have taken its place
            if node.pool is not None and node.pool.is_closed(connection):
                self.origins.note(error, ErrorOrigin.LOST_CONNECTION)
                failure = Failure.BROKEN
        return Failure.LIMIT if limited else failure

    def note_if_foreign(self, error: BaseException) -> None:
        """Take note of an error from elsewhere that has ended the use of a sound connection.

        It comes from elsewhere, from a file or another service, say, if it is an OSError and not
        the driver's. A TimeoutError is not noted: the application may have waited for a silent
        host.
        """
        foreign = isinstance(error, OSError) and sqlstate_of(self._driver, error) is None
        if foreign and not isinstance(error, TimeoutError):
            self.origins.note(error, ErrorOrigin.SOUND_CONNECTION)


def is_on_standby(node: Node[PoolT, ConnT], connection: ConnT) -> bool:
    """Tell whether a connection's server has itself said that it is a standby."""
    pool = node.pool
    if pool is None or node.flag_unreliable or pool.is_closed(connection):
        return False
    return pool.in_hot_standby(connection) is True


def _writes(node: Node[PoolT, ConnT], connection: ConnT) -> bool:
    """Tell whether a connection's server has itself said that it takes writes.

    If so, only the transaction does not, by the application's choice or its session's default. The
    flag came with the same answer as the error, but through a pooler it may be another server's.
    """
    pool = node.pool
    if pool is None or node.flag_unreliable or node.pooled or pool.is_closed(connection):
        return False
    # It was opened with a read-only default. Another default may have been set since, which a new
    # connection would get.
    if pool.destinations.was_opened_read_only(pool.key(connection)):
        return False
    return pool.in_hot_standby(connection) is False
