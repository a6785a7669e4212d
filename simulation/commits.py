"""Stories of commits: the master is lost at any step of a COMMIT, and `run` must know the outcome.

They are short, so that thousands can be played: a few units of work, with faults in the middle of
them. The checks are those of all stories, and one of each unit at the end: see `Ledger`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from hasql.resilience import RetryPolicy
from simulation.checks import check_counts
from simulation.cluster import Cluster
from simulation.story import StoryOfSeed, StoryOutcome, play_story
from simulation.units import UnitsOfWork

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from simulation.record import Record
    from simulation.servers import Server

__all__ = ("CommitOutcome", "play_commits")

#: The steps of a commit; a fault may come after any of them.
_STEPS = ("mark", "sent", "written", "flushed", "done")
#: The most seconds from that step to the fault.
_AROUND = 0.002
#: The most seconds to wait for such a step: commits may be impossible at the time.
_PATIENCE = 1.0


@dataclass(frozen=True)
class CommitOutcome(StoryOutcome):
    """The outcome of a story."""

    #: Commits whose outcome was found out, and those for which it was not.
    found: int
    unknown: int
    #: Transaction ids that were given to more than one transaction.
    reused: int


def play_commits(seed: int, *, honest: bool = True) -> CommitOutcome:
    """Play the story of a seed. Raises StoryFailed, with the reason, if anything was wrong.

    Args:
        seed: The seed of the story.
        honest: Whether the servers tell the truth about what they have flushed. If not, wrong
            outcomes are expected; this shows that the checks find them.
    """
    return play_story(lambda record: _Story(seed, record, honest=honest), "--commits ")


class _Committers(UnitsOfWork):
    """A task that does some writing units of work, and ends."""

    async def run(self) -> None:
        while not (self.stopped or self.record.violations):
            if self.chance.random() < 0.1:
                await self._use_and_be_cancelled("master")
            else:
                await self.use("master")
            await asyncio.sleep(self.chance.expovariate(1 / 0.003))


class _Story(StoryOfSeed[CommitOutcome]):
    def __init__(self, seed: int, record: Record, *, honest: bool) -> None:
        super().__init__(seed, record)
        self._chance = chance = Random(f"{seed} commits")
        #: Whether acknowledged commits are never lost.
        self._safe = chance.random() < 0.5
        self.cluster = Cluster("abcd"[: chance.choice([2, 3, 3, 4])], record, chance)
        hurry = not self._safe and chance.random() < 0.5
        tells, skew = chance.random() < 0.5, chance.choice([0.0, 0.05, 1.0])
        for server in self.cluster.all:
            server.waits_for_standbys, server.in_a_hurry = self._safe, hurry
            server.tells_all, server.honest = tells, honest
            server.flushing = chance.choice([0.0002, 0.001, 0.05 if hurry else 0.004])
            server.lag = chance.choice([0.0005, 0.003, 0.02])
            server.set_clock(chance.uniform(0.0, skew) + chance.random() / 1000)
            server.on_step = self._step
            server.last_words = Random(f"{seed} last words").choice(["", "58030", "53100"])
        #: The step of a commit that is awaited, and the future that waits for it.
        self._awaited = ""
        self._moment: asyncio.Future[None] | None = None
        self._tasks: list[_Committers] = []

    def outcome(self) -> CommitOutcome:
        ledger = self.cluster.ledger
        return CommitOutcome(
            **self.told,
            done=len(ledger.returned),
            found=ledger.found,
            unknown=len(ledger.unknown),
            reused=ledger.reused,
        )

    async def happens(self) -> None:
        loop, chance = asyncio.get_running_loop(), self._chance
        manager = self.new_manager(
            refresh_delay=0.5,
            lease_abort_after=2.0,
            pool_factory_kwargs={"min_size": 1, "max_size": 4},
        )
        policy = RetryPolicy(
            attempts=1000, seconds=chance.choice([0.5, 30.0, 30.0, 30.0]), longest=0.2
        )
        crowd: list[asyncio.Task[None]] = []
        for number in range(chance.choice([1, 2, 3])):
            name = f"committer {number}"
            own = Random(f"{self.seed} {name}")
            task = _Committers(
                name, manager, self.cluster, self.record, own, roomy=True, crowd=crowd
            )
            task.policy = policy
            self._tasks.append(task)
        running = [loop.create_task(task.run(), name=task.name) for task in self._tasks]
        for _ in range(chance.choice([1, 1, 2])):
            await self._written()
            await chance.choice(_SCENES)(self)
            check_counts(manager, self.record, len(running))
        await self._end(running)
        await manager.close(1.0)
        await asyncio.sleep(0.5)
        self.cluster.ledger.check(self.cluster.master, nothing_is_lost=self._safe)

    async def _end(self, running: list[asyncio.Task[None]]) -> None:
        await self.cluster.mend()
        if self._chance.random() < 0.5:
            await self._written()
        for task in self._tasks:
            task.stopped = True
        await self.await_end(running, 60.0)

    # Moments

    def _step(self, step: str) -> None:
        if step == self._awaited and self._moment is not None and not self._moment.done():
            self._moment.set_result(None)

    async def _moment_of_a_commit(self) -> None:
        """Wait for a random step of a commit, and then a little more."""
        self._awaited = self._chance.choice(_STEPS)
        self._moment = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._moment], timeout=_PATIENCE)
        if self._chance.random() < 0.7:
            await asyncio.sleep(self._chance.uniform(0.0, _AROUND))

    async def _written(self) -> None:
        """Wait until some more units are done, as far as possible."""
        ledger, enough = self.cluster.ledger, len(self.cluster.ledger.returned) + 3
        until = self.record.clock.now + _PATIENCE
        while len(ledger.returned) < enough and self.record.clock.now < until:  # noqa: ASYNC110  # virtual time
            await asyncio.sleep(0.01)

    async def _some_time(self, most: float) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, most))

    async def _sometimes_written(self) -> None:
        if self._chance.random() < 0.5:
            await self._written()
        else:
            await self._some_time(0.3)

    # What happens

    async def _kill(self) -> None:
        await self._moment_of_a_commit()
        self.cluster.master.kill()

    async def _promote(self) -> None:
        """Promote a standby; if nothing may be lost, the one that has the most WAL."""
        await self._some_time(0.2)
        cluster = self.cluster
        if not self._safe:
            cluster.promote()
        else:
            standbys = [each for each in cluster.all if each is not cluster.master]
            furthest = max(standbys, key=lambda each: each.wal.end)
            if not (furthest.serves and cluster.may_succeed(furthest)):
                cluster.start_as_standby(furthest)
            cluster.succeed(furthest)
        await self._others_write()

    async def _others_write(self) -> None:
        if self._chance.random() < 0.7:
            await self._some_time(0.003)
            self.cluster.master.write_others(self._chance.randrange(1, 8))

    async def _restart(self, server: Server) -> None:
        await self._some_time(0.3)
        await self.cluster.start_as_master(server)
        await self._others_write()

    async def _killed(self) -> None:
        await self._kill()
        await self._promote()

    async def _killed_twice(self) -> None:
        await self._killed()
        if self._chance.random() < 0.5:
            self.cluster.rejoin()
        await self._sometimes_written()
        await self._killed()

    async def _restarted(self) -> None:
        await self._kill()
        await self._restart(self.cluster.master)

    async def _restarted_twice(self) -> None:
        await self._restarted()
        await self._sometimes_written()
        await self._restarted()

    async def _promoted_and_restarted(self) -> None:
        await self._killed()
        await self._sometimes_written()
        self.cluster.master.kill()
        await self._restart(self.cluster.master)

    async def _restarted_and_replaced(self) -> None:
        await self._restarted()
        await self._sometimes_written()
        self.cluster.master.kill()
        await self._promote()

    async def _out_of_sight(self) -> None:
        """Run a master for a while that hasql cannot reach, but that other clients write to."""
        server = self.cluster.master
        server.refuse_logins("53300")
        for _ in range(self._chance.choice([1, 2, 3])):
            server.write_others(self._chance.randrange(1, 8))
            await self._some_time(0.05)
        server.kill()

    async def _started_out_of_sight(self) -> None:
        await self._kill()
        await self._some_time(0.1)
        await self.cluster.start_as_master(self.cluster.master)
        await self._out_of_sight()

    async def _restarted_out_of_sight(self) -> None:
        await self._started_out_of_sight()
        await self._restart(self.cluster.master)

    async def _restarted_out_of_sight_and_replaced(self) -> None:
        await self._started_out_of_sight()
        await self._promote()

    async def _promoted_out_of_sight(self) -> None:
        await self._killed()
        await self._out_of_sight()
        if self._chance.random() < 0.5:
            await self._restart(self.cluster.master)
        else:
            await self._promote()

    async def _recovered(self) -> None:
        await self._moment_of_a_commit()
        server = self.cluster.master
        server.crash_a_backend()
        await asyncio.sleep(self._chance.uniform(0.02, 0.2))
        server.recover()
        await self._others_write()

    async def _recovered_and_replaced(self) -> None:
        await self._recovered()
        await self._sometimes_written()
        await self._killed()

    async def _unheard(self) -> None:
        await self._moment_of_a_commit()
        self.cluster.master.unheard()
        await self._some_time(0.05)
        self.cluster.master.drop(reserved=False)

    async def _unheard_and_killed(self) -> None:
        await self._unheard()
        await self._killed()

    async def _frozen(self) -> None:
        await self._moment_of_a_commit()
        old = self.cluster.master
        old.freeze()
        await self._promote()
        await self._some_time(1.0)
        old.thaw()
        await self._sometimes_written()

    async def _frozen_and_thawed(self) -> None:
        await self._moment_of_a_commit()
        self.cluster.master.freeze()
        await self._some_time(4.0)
        self.cluster.master.thaw()

    async def _promoted_beside(self) -> None:
        await self._moment_of_a_commit()
        await self._promote()

    async def _switched_over(self) -> None:
        await self._moment_of_a_commit()
        old = self.cluster.master
        old.kill()
        await self._promote()
        self.cluster.rejoin()


_SCENES: list[Callable[[_Story], Awaitable[None]]] = [
    _Story._killed,
    _Story._killed_twice,
    _Story._killed_twice,
    _Story._restarted,
    _Story._restarted_twice,
    _Story._promoted_and_restarted,
    _Story._restarted_and_replaced,
    _Story._restarted_out_of_sight,
    _Story._restarted_out_of_sight,
    _Story._restarted_out_of_sight_and_replaced,
    _Story._restarted_out_of_sight_and_replaced,
    _Story._promoted_out_of_sight,
    _Story._promoted_out_of_sight,
    _Story._recovered,
    _Story._recovered_and_replaced,
    _Story._unheard,
    _Story._unheard_and_killed,
    _Story._frozen,
    _Story._frozen_and_thawed,
    _Story._promoted_beside,
    _Story._switched_over,
]
