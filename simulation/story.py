"""The story of a seed, whatever it is about: how it is played, and what it comes to."""

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
    """What a story has come to."""

    seed: int
    #: Stands for all that was seen.
    digest: str
    lines: list[str]
    #: Virtual seconds.
    seconds: float
    failovers: int
    #: What was done of what it is about: uses of connections, or units of work.
    done: int


_OutcomeT = TypeVar("_OutcomeT", bound=StoryOutcome)


class StoryOfSeed(Generic[_OutcomeT]):
    """One story; a kind derives from it, and says what happens and what it has come to."""

    cluster: Cluster

    def __init__(self, seed: int, record: Record) -> None:
        self.seed = seed
        self.record = record

    async def happens(self) -> None:
        """Play it, until all managers are closed."""
        raise NotImplementedError

    def outcome(self) -> _OutcomeT:
        """Tell what it has come to."""
        raise NotImplementedError

    @property
    def told(self) -> dict[str, Any]:
        """What each outcome has, but for what was done."""
        return {
            "seed": self.seed,
            "digest": self.record.digest,
            "lines": self.record.lines,
            "seconds": self.record.clock.now,
            "failovers": self.cluster.failovers,
        }

    async def play(self) -> None:
        """Play it, and see that nothing is left of it."""
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
        """Make a manager, whose clock is not that of the loop and whose chance is its own.

        Args:
            name: What the record calls it.
            of: What tells its chance from that of others, with the seed.
            names: Where hosts are; None: at the addresses that their names have for good.
            options: For the manager.
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
        """Wait for tasks that are to end, and to have met nothing by then."""
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
        begin: Makes it.
        option: What `python -m simulation` is told to play it again, beside the seed.

    Raises:
        StoryFailed: With what must not have happened.
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
