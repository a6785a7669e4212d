"""The base of all stories: how the story of a seed is played, and its outcome."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from simulation.checks import check_closed
from simulation.driver import SimulatedDriver, SimulatedManager
from simulation.knowledge import Knowledge
from simulation.record import Complaints, Record, StoryFailed
from simulation.virtual_time import VirtualClock, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from simulation.cluster import Cluster
    from simulation.names import Names

__all__ = ("StoryOfSeed", "StoryOutcome", "play_story")

log = logging.getLogger("hasql")


@dataclass(frozen=True)
class StoryOutcome:
    """The outcome of a story."""

    seed: int
    #: A hash of everything that was seen.
    digest: str
    lines: list[str]
    #: Virtual seconds.
    seconds: float
    failovers: int
    #: How many uses of connections, or units of work, succeeded.
    done: int


_OutcomeT = TypeVar("_OutcomeT", bound=StoryOutcome)


class StoryOfSeed(Generic[_OutcomeT]):
    """A story; each kind of story derives from this class, and implements events and outcome."""

    cluster: Cluster

    def __init__(self, seed: int, record: Record) -> None:
        self.seed = seed
        self.record = record

    async def happens(self) -> None:
        """Play the events, until all managers are closed."""
        raise NotImplementedError

    def outcome(self) -> _OutcomeT:
        """Return the outcome."""
        raise NotImplementedError

    @property
    def told(self) -> dict[str, Any]:
        """The fields that all outcomes have, except `done`."""
        return {
            "seed": self.seed,
            "digest": self.record.digest,
            "lines": self.record.lines,
            "seconds": self.record.clock.now,
            "failovers": self.cluster.failovers,
        }

    async def play(self) -> None:
        """Play the story, and check that nothing is left over."""
        asyncio.get_running_loop().set_exception_handler(self.record.loop_failed)
        me = {task for task in asyncio.all_tasks() if task is asyncio.current_task()}
        await self.happens()
        check_closed(self.record, self.cluster, me)

    def new_manager(
        self,
        name: str = "manager",
        of: str = "",
        names: Names | None = None,
        **options: Any,
    ) -> SimulatedManager:
        """Make a pool manager with a clock other than the loop's, and its own source of chance.

        Args:
            name: The manager's name in the record.
            of: Together with the seed, distinguishes its chance from that of other managers.
            names: The nameserver; None if the hosts' names never change their addresses.
            options: Options of the pool manager.
        """
        driver = SimulatedDriver(
            self.cluster.servers,
            Knowledge(name, self.record),
            Random(f"{self.seed}{of} driver"),
        )
        clock, origin = self.record.clock, Random(f"{self.seed}{of} clock").uniform(1e3, 1e6)
        chance = Random(f"{self.seed}{of} manager")
        return SimulatedManager(driver, names, lambda: clock.now + origin, chance, **options)

    async def await_end(self, running: Iterable[asyncio.Task[None]], seconds: float) -> None:
        """Wait for tasks, and check that they end within `seconds` and without an error."""
        running = [*running]
        _, left = await asyncio.wait(running, timeout=seconds)
        for each in left:
            self.record.violated(each.get_name(), "does not end")
        for each in running:
            if each.done() and (error := each.exception()):
                self.record.violated(each.get_name(), f"has met {error!r}")


def play_story(begin: Callable[[Record], StoryOfSeed[_OutcomeT]], option: str = "") -> _OutcomeT:
    """Play a story in virtual time.

    Args:
        begin: Makes the story.
        option: The option, besides the seed, with which `python -m simulation` plays it again.

    Raises:
        StoryFailed: Something was wrong; the message says what.
    """
    record = Record(VirtualClock())
    story = begin(record)
    handler = Complaints(record)
    log.addHandler(handler)
    try:
        run(story.play(), record.clock)
    except Exception as error:
        record.violated("the story", repr(error))
        raise StoryFailed(record.told(story.seed, option)) from error
    finally:
        log.removeHandler(handler)
    if record.violations:
        raise StoryFailed(record.told(story.seed, option))
    return story.outcome()
