"""Connecting in a thread, to whichever address of a name answers.

The counterpart of `Endpoint.connect` for the drivers' synchronous connects.
"""

from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from hasql.driver.endpoint import Endpoint
from hasql.driver.failure import Failure
from hasql.driver.os_threads import OsThread, new_guard

__all__ = ("ThreadedConnect", "connect_in_thread")

_T = TypeVar("_T")


class ThreadedConnect:
    """A connect that one thread makes and any other thread may end.

    The dialling thread looks at this whenever it wakes, at least ten times a second.

    Args:
        within: A connect that this one is part of, and ends with.
    """

    def __init__(self, within: "ThreadedConnect | None" = None) -> None:
        self._within = within
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether its connection is no longer wanted."""
        return self._ended or (self._within is not None and self._within.ended)

    def end(self) -> None:
        """Make it end soon; its connection is no longer wanted."""
        self._ended = True

    def check(self) -> None:
        """Raise ConnectionError if it has been ended."""
        if self.ended:
            raise ConnectionError("hasql gave up on the host while connecting to it")


def connect_in_thread(
    endpoint: Endpoint,
    connect: ThreadedConnect,
    dial: Callable[[str | None, ThreadedConnect], _T],
    failure_of: Callable[[BaseException], Failure],
    discard: Callable[[_T], None],
) -> _T:
    """Connect to whichever address of the host's name answers; see `Endpoint.connect`.

    If there are several addresses, `dial` runs in threads of its own. Each call gets a
    `ThreadedConnect`, which tells it when to end.
    """
    while addresses := endpoint.addresses:
        if len(addresses) == 1:  # the usual case, and it needs no thread
            address, connection = addresses[0], dial(addresses[0], connect)
        else:
            race = _ThreadRace(dial, failure_of, discard, connect)
            address, connection = race.run(addresses, endpoint)
        if not endpoint.has_left(address):
            endpoint.note_connected(address)
            return connection
        discard(connection)  # the name has moved meanwhile
        connect.check()
    return dial(None, connect)


class _ThreadRace(Generic[_T]):
    """The attempts to connect to the addresses of one name, each a little after the one before."""

    def __init__(
        self,
        dial: Callable[[str | None, ThreadedConnect], _T],
        failure_of: Callable[[BaseException], Failure],
        discard: Callable[[_T], None],
        whole: ThreadedConnect,
    ) -> None:
        self._dial = dial
        self._failure_of = failure_of
        self._discard = discard
        #: Ends all attempts.
        self._race = ThreadedConnect(whole)
        self._under_way = 0
        #: The address of each attempt that has ended, with its connection or its error.
        self._answers: SimpleQueue[tuple[str, _T | None, BaseException | None]] = SimpleQueue()
        self._over = new_guard()

    def run(self, addresses: tuple[str, ...], endpoint: Endpoint) -> tuple[str, _T]:
        """Return the first address to answer and the connection to it."""
        try:
            address, connection = self._first(addresses, endpoint.stagger)
        finally:
            self._leave_others()
        endpoint.note_race(in_time=address == addresses[0], others=self._under_way > 0)
        return address, connection

    def _first(self, addresses: tuple[str, ...], stagger: float) -> tuple[str, _T]:
        error: BaseException | None = None
        full: BaseException | None = None
        left = iter(addresses)
        while True:
            address = next(left, None)
            if address is not None:
                self._under_way += 1
                OsThread(partial(self._try, address), "hasql dial").start()
            elif not self._under_way:
                assert error is not None  # noqa: S101  # every attempt has failed
                raise full or error
            last = address is None and full is None
            try:
                answered, connection, error = self._answers.get(timeout=None if last else stagger)
            except Empty:
                if address is None and full is not None:
                    raise full from None  # it says more than the silence of the others
                continue
            self._under_way -= 1
            if error is None:
                return answered, connection  # type: ignore[return-value]  # None may be a _T
            failure = self._failure_of(error)
            if failure is Failure.FULL:
                full = error  # another address may have a place
            elif failure is not Failure.BROKEN:
                raise error

    def _try(self, address: str) -> None:
        try:
            connection = self._dial(address, self._race)
        except BaseException as error:  # noqa: BLE001  # for the thread that waits
            self._answers.put((address, None, error))
            return
        with self._over:
            if not self._race.ended:
                self._answers.put((address, connection, None))
                return
        self._discard(connection)

    def _leave_others(self) -> None:
        """End the other attempts; a connection that one of them has made is discarded."""
        with self._over:
            self._race.end()
        while not self._answers.empty():
            _, connection, error = self._answers.get()
            if error is None:
                self._discard(connection)  # type: ignore[arg-type]  # as above
