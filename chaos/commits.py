"""Commits: the master is lost at random moments around COMMIT, and `run` has to know the outcome.

Each unit of work writes one row of its own. If `run` has returned, the row must exist exactly once;
if it has raised CommitUnknownError, at most once; and no other error may occur. The results are
compared with the rows on the surviving master.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from chaos.failures import Failure, Stopwatch, tell
from chaos.stage import dsn_of, set_synchronous, ways
from hasql.resilience import CommitUnknownError, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from chaos.stage import Way
    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import LoadKit

__all__ = ("COMMIT_SCENES", "CommitOutcome", "CommitScene", "play_commits")

_WRITERS, _SHORT_WRITERS = 27, 9
"""The number of writers of all drivers together: enough for some to be at COMMIT at most times."""

_MOMENTS, _FEW_MOMENTS = 25, 2
"""How often each scene is played: all scenes together are 200 losses for each driver."""

_BUDGET = RetryPolicy(attempts=100, seconds=120.0, longest=0.2)
"""A large budget: masters are lost faster than some drivers connect all writers again, because
aiopg opens one connection after the other. So one unit of work may live through many losses, and a
budget for a single loss, as in `chaos.units`, would have to last for all of them."""

_PATIENCE = 30.0
"""Seconds within which every driver must write again."""

_AROUND = 0.005
"""The fault comes at most this many seconds after the end of some work."""

_HELD = 0.03
"""The most seconds for which commits are held back before the fault."""

_SETTINGS = ("synchronous_commit = remote_apply", "commit_delay = 2000", "commit_siblings = 0")
"""A commit waits until a replica has replayed it, and before that it waits 2 ms to be flushed. If
the server restarts, the id of a transaction lost in that time is given to another transaction."""

_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
_POSITION = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn"


class _Units:
    """One driver's pool manager, and the writers that use it."""

    def __init__(
        self, kit: LoadKit, dsn: str, committing: Callable[[], object], writers: int
    ) -> None:
        self.kit = kit
        self.writers = writers
        self.table = f"u_{uuid4().hex}"
        self.manager: Any = kit.manager(
            dsn,
            refresh_delay=0.5,
            lease_abort_after=2.0,
            pool_factory_kwargs=kit.sizes(1, writers),
        )
        self.workers = kit.workers()
        self.done: list[int] = []
        self.unknown: list[int] = []
        self.errors: list[Failure] = []
        self.longest = 0.0
        self.stopping = False
        self._committing = committing

    def start(self) -> None:
        for number in range(self.writers):
            self.workers.start(f"writer {number}", self._write(number))

    async def _write(self, number: int) -> None:
        while not self.stopping:
            number += self.writers
            watch = Stopwatch()
            try:
                await self._unit(number)
            except CommitUnknownError:
                self.unknown.append(number)
            except Exception as error:  # noqa: BLE001 - every failure is counted
                self.errors.append(Failure.of(error, watch))
            else:
                self.done.append(number)
            self.longest = max(self.longest, watch.seconds)
            await self.workers.rest(0.002)

    async def _unit(self, number: int) -> None:
        values = f"VALUES ({number}) RETURNING 1"
        insert = f"INSERT INTO {self.table} {values}"

        async def work(connection: Any) -> None:  # noqa: ANN401 - any driver's
            await self.kit.value(connection, insert)
            self._committing()

        await self.manager.run(work, retry=_BUDGET)


class _Stage:
    """The servers, and the HA manager that a scene plays."""

    def __init__(self, cluster: LocalCluster, found: dict[LocalNode, Way], chance: Random) -> None:
        self.cluster = cluster
        self.ways = found
        self.chance = chance
        self.units: list[_Units] = []
        self._holds = chance.random() < 0.5  # noqa: PLR2004 - one of two ways
        self._loop = asyncio.get_running_loop()
        self._committing = asyncio.Event()

    def committing(self) -> None:
        """Note that a writer is about to commit; the writer calls this."""
        self._loop.call_soon_threadsafe(self._committing.set)

    async def moment(self) -> None:
        """Wait for a random moment around a commit."""
        self._committing.clear()
        await self._committing.wait()
        await asyncio.sleep(self.chance.random() * _AROUND)

    @asynccontextmanager
    async def at_commit(self) -> AsyncIterator[LocalNode]:
        """Enter the block at a random moment around a commit.

        Every other time, a commit is certain to be waiting then. A commit waits until a standby has
        replayed it. If no standby replays, all running commits wait: the server has done them, and
        a standby may or may not have received them.
        """
        master, held = self.cluster.master, []
        await self.moment()
        self._holds = not self._holds
        if self._holds:
            held = [node for node in self.cluster.nodes if node is not master and node.running]
        try:
            if held:
                await asyncio.gather(*(node.pause_replay() for node in held))
                async with asyncio.timeout(_PATIENCE):
                    while int(await master.sql(_WAITING)) == 0:  # noqa: ASYNC110 - only asking tells
                        await asyncio.sleep(0.002)
                await asyncio.sleep(self.chance.random() * _HELD)
            yield master
        finally:
            await asyncio.gather(*(node.resume_replay() for node in held))

    async def kill(self) -> LocalNode:
        """Kill the master at a commit."""
        async with self.at_commit() as master:
            master.kill()
        return master

    async def promote(self, *candidates: LocalNode) -> LocalNode:
        """Promote the candidate with the most WAL, and make the others follow it."""
        positions = [int(await node.sql(_POSITION)) for node in candidates]
        new = candidates[positions.index(max(positions))]
        await new.promote()
        await asyncio.gather(*(node.follow(new) for node in candidates if node is not new))
        return new

    async def written(self) -> None:
        """Wait until each driver has done some more of its work."""
        before = [len(each.done) for each in self.units]
        watch = Stopwatch()
        while any(len(each.done) <= done for each, done in zip(self.units, before, strict=True)):
            if watch.seconds > _PATIENCE:
                for each, done in zip(self.units, before, strict=True):
                    if len(each.done) <= done:
                        each.errors.append(Failure("nothing was done", _PATIENCE, watch.starved))
                return
            await asyncio.sleep(0.005)


# The scenes


async def _once(stage: _Stage) -> None:
    replicas = stage.cluster.replicas
    await stage.kill()
    await stage.promote(*replicas)


async def _twice(stage: _Stage) -> None:
    replicas = stage.cluster.replicas
    await stage.kill()
    new = await stage.promote(*replicas)
    if stage.chance.random() < 0.5:  # noqa: PLR2004 - one of two ways
        await stage.written()
        await stage.kill()
    else:
        new.kill()
    await stage.promote(*(node for node in replicas if node is not new))


async def _restarted(stage: _Stage) -> None:
    master = await stage.kill()
    await master.start()


async def _restarted_twice(stage: _Stage) -> None:
    for _ in range(2):
        master = await stage.kill()
        await master.start()
        if stage.chance.random() < 0.5:  # noqa: PLR2004 - one of two ways
            await stage.written()


async def _promoted_and_restarted(stage: _Stage) -> None:
    replicas = stage.cluster.replicas
    await stage.kill()
    new = await stage.promote(*replicas)
    if stage.chance.random() < 0.5:  # noqa: PLR2004 - one of two ways
        await stage.written()
    new.kill()
    await new.start()


async def _restarted_and_replaced(stage: _Stage) -> None:
    replicas = stage.cluster.replicas
    master = await stage.kill()
    await master.start()
    await asyncio.sleep(0.5 * stage.chance.random())
    master.kill()
    await stage.promote(*replicas)


async def _unheard(stage: _Stage) -> None:
    async with stage.at_commit() as master:
        proxy = stage.ways[master].proxy
        proxy.black_hole(there=False)
    await asyncio.sleep(0.05 * stage.chance.random())
    proxy.drop()
    proxy.forward()


async def _fatal(stage: _Stage) -> None:
    """Answer COMMIT like a pooler or a server that shuts down, while the server goes on."""
    async with stage.at_commit() as master:
        proxy = stage.ways[master].proxy
        proxy.black_hole(there=False)
    await asyncio.sleep(0.05 * stage.chance.random())
    proxy.answer_commits(stage.chance.choice(["58030", "53100", "XX000"]))
    proxy.drop()
    proxy.forward()


async def _unheard_and_killed(stage: _Stage) -> None:
    master, replicas = stage.cluster.master, stage.cluster.replicas
    await _unheard(stage)
    if stage.chance.random() < 0.5:  # noqa: PLR2004 - one of two ways
        await stage.moment()
    master.kill()
    await stage.promote(*replicas)


@dataclass(frozen=True, slots=True)
class CommitScene:
    name: str
    description: str
    play: Callable[[_Stage], Awaitable[None]]
    #: Whether there are proxies between the application and the servers.
    proxies: bool = False


_ALL = (
    CommitScene("commit-killed", "the master is killed at COMMIT and replaced", _once),
    CommitScene("commit-twice", "the same, and then the new one is, too", _twice),
    CommitScene("commit-restart", "the master is killed at COMMIT and started again", _restarted),
    CommitScene("commit-restarts", "the same, twice", _restarted_twice),
    CommitScene(
        "commit-again",
        "the master is killed at COMMIT and replaced, and the new one started anew",
        _promoted_and_restarted,
    ),
    CommitScene(
        "commit-replaced",
        "the master is killed at COMMIT, started again, killed and replaced",
        _restarted_and_replaced,
    ),
    CommitScene(
        "commit-unheard", "the answer to COMMIT is lost in a proxy", _unheard, proxies=True
    ),
    CommitScene(
        "commit-fatal", "a proxy answers COMMIT with a FATAL and hangs up", _fatal, proxies=True
    ),
    CommitScene(
        "commit-buried",
        "the answer to COMMIT is lost in a proxy, and the master is killed and replaced",
        _unheard_and_killed,
        proxies=True,
    ),
)
COMMIT_SCENES = {scene.name: scene for scene in _ALL}


@dataclass(frozen=True, slots=True)
class CommitOutcome:
    """The outcome for one driver. Durations are seconds."""

    scenario: str
    driver: str
    #: How often the master was lost.
    moments: int
    #: Units of work that were done, lost commits whose outcome was found, and those it was not.
    done: int
    found: int
    unknown: int
    #: The longest unit of work.
    longest: float
    problems: tuple[str, ...] = ()


async def play_commits(
    scene: CommitScene,
    cluster: LocalCluster,
    kits: Sequence[LoadKit],
    *,
    short: bool,
    seed: int | None = None,
) -> list[CommitOutcome]:
    """Play a scene to all drivers at once, and return the outcome for each of them."""
    chance, moments = Random(seed), _FEW_MOMENTS if short else _MOMENTS  # noqa: S311 - no secret
    async with _waiting_for_replicas(cluster), AsyncExitStack() as stack:
        found = {}
        if scene.proxies:
            found = await stack.enter_async_context(ways(cluster.nodes, wires=False))
        stage = _Stage(cluster, found, chance)
        dsn = dsn_of(cluster, found)
        writers = max(1, (_SHORT_WRITERS if short else _WRITERS) // len(kits))
        for kit in kits:
            units = _Units(kit, dsn, stage.committing, writers)
            stage.units.append(await stack.enter_async_context(_working(units, cluster)))
        await stage.written()
        for _ in range(moments):
            await scene.play(stage)
            await asyncio.to_thread(cluster.heal)
            await stage.written()
        stuck = await asyncio.gather(*map(_stop, stage.units))
        return [
            await _judge(scene, each, cluster.master, moments, left)
            for each, left in zip(stage.units, stuck, strict=True)
        ]


@asynccontextmanager
async def _waiting_for_replicas(cluster: LocalCluster) -> AsyncIterator[None]:
    """Make any master acknowledge only what a replica has replayed; undo that afterwards."""
    await asyncio.to_thread(cluster.heal)
    # With this grant a standby tells at once which timeline it follows.
    await cluster.master.sql("GRANT pg_read_all_stats TO app")
    settings = [f"SET {setting}" for setting in _SETTINGS]
    await asyncio.gather(*(_set(node, settings, "ANY 1 (*)") for node in cluster.nodes))
    try:
        yield
    finally:
        await asyncio.to_thread(cluster.heal)
        settings = [f"RESET {setting.partition(' ')[0]}" for setting in _SETTINGS]
        await asyncio.gather(*(_set(node, settings, "") for node in cluster.nodes))


async def _set(node: LocalNode, settings: Sequence[str], waits_for: str) -> None:
    for setting in settings:
        await node.sql(f"ALTER SYSTEM {setting}")
    await set_synchronous(node, waits_for)


@asynccontextmanager
async def _working(units: _Units, cluster: LocalCluster) -> AsyncIterator[_Units]:
    await cluster.master.sql(f"CREATE TABLE {units.table} (number int)")
    await cluster.master.sql(f"GRANT ALL ON {units.table} TO app")
    try:
        await units.manager.ready(1, 2)
        units.start()
        yield units
    finally:
        units.stopping = True
        await units.workers.end()
        await units.manager.close(1.0)
        await units.workers.wait()


async def _stop(units: _Units) -> int:
    units.stopping = True
    return await units.workers.stuck_after(_PATIENCE)


async def _judge(
    scene: CommitScene, units: _Units, master: LocalNode, moments: int, stuck: int
) -> CommitOutcome:
    rows = await master.sql(f"SELECT number FROM {units.table}")  # noqa: S608 - ours
    there = Counter(map(int, rows.splitlines()))
    runs = units.manager.metrics().runs
    return CommitOutcome(
        scenario=scene.name,
        driver=units.kit.name,
        moments=moments,
        done=len(units.done),
        found=runs.commits_found,
        unknown=runs.commits_unknown,
        longest=units.longest,
        problems=(*_problems(units, there), *([f"{stuck} writers did not end"] if stuck else ())),
    )


def _problems(units: _Units, there: Counter[int]) -> Iterator[str]:
    done = set(units.done)
    if missing := [number for number in done if number not in there]:
        yield f"{len(missing)} units of work are said to be done, and are not: {missing[:5]}"
    if doubled := [number for number, count in there.items() if count > 1]:
        yield f"{len(doubled)} units of work were done several times: {doubled[:5]}"
    if unwanted := there.keys() - done - set(units.unknown):
        yield f"{len(unwanted)} units of work were done, and nobody was told: {[*unwanted][:5]}"
    yield from tell(units.errors)
