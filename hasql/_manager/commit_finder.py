"""The commit finder: asks the master that serves now about the outcome of a commit."""

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Generic

from hasql._manager.options import Options
from hasql._manager.own_session import OwnSession
from hasql._manager.routing_state import RoutingState
from hasql._manager.state_waits import StateWaits
from hasql._routing.node import Node
from hasql.diagnostics import about
from hasql.driver import ConnT, Driver, Failure, PoolT
from hasql.driver.judgement import judge_error
from hasql.resilience.commit_outcome import CommitMark, Outcome
from hasql.resilience.commit_rule import (
    StatusAnswer,
    last_sign,
    outcome_of,
    question,
    read_answer,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("CommitFinder",)

log = logging.getLogger("hasql")

#: Seconds between two questions, at first and at most.
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5
#: How often a server has to refuse the question before that counts: once may be chance.
_REFUSALS: Final = 2
#: For how many servers the last mark is kept.
_MARKS_KEPT: Final = 8


class CommitFinder(Generic[PoolT, ConnT]):
    """Finds out the outcome of commits whose answer was lost, in the manager's event loop.

    All questions go over one session, one after the other: after a failover many units of work ask
    at once, while the new master has enough to do.
    """

    def __init__(
        self,
        driver: Driver[PoolT, ConnT],
        options: Options,
        routing: RoutingState[PoolT, ConnT],
        waits: StateWaits[PoolT, ConnT],
    ) -> None:
        self._driver = driver
        self._clock = options.clock
        self._hide = options.hide
        self._routing = routing
        self._waits = waits
        self._session = OwnSession(driver, options)
        self._one_at_a_time = asyncio.Lock()
        #: How many searches are under way, and the units of work that are about to ask.
        self._searches = 0
        self._about_to_ask: set[object] = set()
        #: Called when a unit of work has asked, or is not going to ask any more.
        self.on_question_ended: Callable[[], object] = _nothing
        #: The mark that was read last, by server.
        self._marks: dict[tuple[int, int, int | None], CommitMark] = {}

    @property
    def is_in_use(self) -> bool:
        """Whether a unit of work asks now, or is about to."""
        return bool(self._searches or self._about_to_ask)

    def expect_question(self, unit: object) -> None:
        """Take note that a unit of work is about to ask; called while its lease is still out."""
        self._about_to_ask.add(unit)

    def end_question(self, unit: object) -> None:
        """Take note that it has asked, or is not going to; a second call does no harm."""
        self._about_to_ask.discard(unit)
        self.on_question_ended()

    def note_mark(self, mark: CommitMark) -> None:
        """Take note of a mark that was read: it shows how far its server has come."""
        server = mark.server
        if server not in self._marks:
            with self._routing.guard:
                if len(self._marks) >= _MARKS_KEPT:
                    del self._marks[next(iter(self._marks.copy()))]  # others add theirs meanwhile
        self._marks[server] = mark

    def close(self) -> None:
        """Let no search wait for an answer any more: the manager is closed."""
        self._session.close()

    async def find(self, mark: CommitMark | None, deadline: float) -> Outcome:
        """Find the outcome of a commit, waiting for a master until the deadline, by the clock.

        A transaction that is still in progress is waited for. Without a mark nobody can know the
        outcome.
        """
        if mark is None:
            return Outcome.UNKNOWN
        limit = asyncio.timeout(max(0.0, deadline - self._clock()))
        self._searches += 1
        try:
            async with limit:
                outcome = await self._find(mark)
        except TimeoutError:
            if not limit.expired():
                raise
            outcome = Outcome.UNKNOWN
        finally:
            self._searches -= 1
            if not self._searches:
                self._session.close()
            self.on_question_ended()
        log.info(
            "the outcome of transaction %d on %s (timeline %d), whose COMMIT got no answer: %s",
            mark.xid, mark.host, mark.timeline, outcome.value,
            extra=about("commit_found_out", host=mark.host),
        )  # fmt: skip
        return outcome

    async def _find(self, mark: CommitMark) -> Outcome:
        pause, refusals = _FIRST_PAUSE, 0
        while self._routing.learns:
            node = self._master(mark)
            if node is None:
                await self._waits.next_change()
                continue
            try:
                outcome = await self._outcome(mark, node)
            except Exception as error:  # noqa: BLE001  # whatever it is, the next try may succeed
                extra = about("commit_not_found_out", host=node.host)
                told = self._hide(repr(error))
                log.debug(
                    "%s: could not ask about the outcome of a commit: %s",
                    node.host,
                    told,
                    extra=extra,
                )
                if judge_error(self._driver, error) is Failure.STATEMENT:
                    refusals += 1
                outcome = None if refusals < _REFUSALS else Outcome.UNKNOWN
            if outcome is not None:
                return outcome
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return Outcome.UNKNOWN

    def _master(self, mark: CommitMark) -> Node[PoolT, ConnT] | None:
        """Return the node to ask: a master of the mark's cluster, with or without a pool."""
        for state in self._routing.topology.masters:
            if state.answers and state.system_id == mark.system_id:
                return self._routing.nodes[state.host]
        return None

    async def _outcome(self, mark: CommitMark, node: Node[PoolT, ConnT]) -> Outcome | None:
        answer = await self._ask(mark, node)
        if answer is None:
            return None
        topology = self._routing.topology
        state = topology.node(mark.host)
        sign = last_sign(mark, None if state is None else state.reading)
        if (later := self._marks.get(mark.server)) is not None:
            sign = sign.and_then(last_sign(later, None))
        switches = topology.seen.switches.get(mark.system_id, ())
        return outcome_of(mark, answer, switches, sign)

    async def _ask(self, mark: CommitMark, node: Node[PoolT, ConnT]) -> StatusAnswer | None:
        """Ask a master. None: another master replaced it before its turn, or before it answered."""
        async with self._one_at_a_time:
            if self._master(mark) is not node:
                return None
            row = await self._session.fetch_row(node, question(mark))
        if self._master(mark) is not node:
            return None
        state = self._routing.topology.node(node.host)
        return read_answer(node.host, row, several=state is None or state.several_servers)


def _nothing() -> None:
    pass
