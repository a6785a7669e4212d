"""Commit outcomes on real servers after crashes, restarts and promotions (invariant 20).

Each test leaves a transaction behind whose answer was never heard, and puts the cluster through
some event. Where possible it gives the transaction's id to another transaction. Then it asks for
the outcome.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest

from hasql.asyncpg import PoolManager
from hasql.cluster.host import HostSpec
from hasql.resilience import CommitMark, Outcome
from hasql.testing import LocalCluster
from testbed.scene import crash_within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from hasql.testing import LocalNode

pytestmark = pytest.mark.loops_in_turn

#: With these settings only the checkpointer, or a commit that waits for it, flushes the WAL.
UNFLUSHED = {"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}


@pytest.fixture(scope="module", params=[16, 18])
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    with LocalCluster(version=request.param, settings=UNFLUSHED) as cluster:
        # With this privilege a standby tells at once which timeline it follows.
        asyncio.run(cluster.master.sql("GRANT pg_read_all_stats TO app"))
        yield cluster


class Unanswered:
    """A transaction that is about to commit or has done so, and the manager that asks about it."""

    def __init__(self, manager: PoolManager, table: str, mark: CommitMark, session: Any) -> None:
        self.manager = manager
        self.table = table
        self.mark = mark
        self.session = session

    async def commit(self) -> None:
        await self.session.execute("COMMIT")

    async def outcome(self, seconds: float = 10.0) -> Outcome:
        finder = self.manager._parts.commits  # noqa: SLF001  # `run` asks it as well
        return await finder.find(self.mark, monotonic() + seconds)

    async def give_id_away(self, master: LocalNode) -> None:
        """Let another transaction commit with the same id, and others write beyond the mark."""
        while int(await master.sql("SELECT pg_current_xact_id()")) < self.mark.xid:
            pass
        status = await master.sql(f"SELECT pg_xact_status('{self.mark.xid}')")
        assert status == "committed"
        rows = "SELECT generate_series(2, 1000)"
        await master.sql(f"CREATE TABLE {self.table}_more AS {rows}")


async def master_is(manager: PoolManager, node: LocalNode) -> None:
    """Wait until hasql has seen this node as the master."""
    async with asyncio.timeout(20):
        while True:
            found = {str(x.host) for x in manager.metrics().nodes if x.role.value == "master"}
            if found == {f"{node.host}:{node.port}"}:
                return
            await manager.wait_next_pool_check()


async def mark_of(session: Any, node: LocalNode) -> CommitMark:
    row = await session.fetchrow(CommitMark.SQL)
    mark = CommitMark.read(HostSpec(node.host, node.port), tuple(row or ()))
    assert mark is not None
    return mark


@asynccontextmanager
async def unanswered(
    cluster: LocalCluster, on: LocalNode | None = None, *, flushed: bool = False
) -> AsyncIterator[Unanswered]:
    """Yield a transaction on the master that is ready to commit, with or without a flush."""
    await asyncio.to_thread(cluster.heal)
    master, table = on or cluster.master, f"t_{uuid4().hex}"
    await master.sql(f"CREATE TABLE {table} (i int); GRANT ALL ON {table} TO app")
    async with PoolManager(cluster.dsn, refresh_delay=0.2, refresh_timeout=0.5) as manager:
        await manager.ready(1, 2)
        session = await asyncpg.connect(master.dsn)
        try:
            if not flushed:
                await session.execute("SET synchronous_commit = off")
            await session.execute("BEGIN")
            await session.execute(f"INSERT INTO {table} VALUES (1)")  # noqa: S608  # ours
            yield Unanswered(manager, table, await mark_of(session, master), session)
        finally:
            session.terminate()


async def test_a_transaction_that_is_in_progress_is_waited_for(cluster: LocalCluster) -> None:
    async with unanswered(cluster) as it:
        asked = asyncio.create_task(it.outcome())
        await asyncio.sleep(0.1)
        assert not asked.done()
        await it.commit()
        assert await asked is Outcome.COMMITTED


async def test_a_transaction_that_was_broken_is_aborted(cluster: LocalCluster) -> None:
    async with unanswered(cluster) as it:
        it.session.terminate()
        assert await it.outcome() is Outcome.ABORTED


async def test_what_does_not_end_is_unknown_at_the_deadline(cluster: LocalCluster) -> None:
    async with unanswered(cluster) as it:
        began = monotonic()
        assert await it.outcome(0.3) is Outcome.UNKNOWN
        assert monotonic() - began < 2


async def test_what_a_crash_has_lost_is_aborted_though_its_id_is_committed(
    cluster: LocalCluster,
) -> None:
    async with unanswered(cluster) as it:
        master = cluster.master
        await it.commit()  # acknowledged, but not flushed
        master.kill()
        await master.start()
        assert await master.sql(f"SELECT count(*) FROM {it.table}") == "0"  # noqa: S608  # ours
        await it.give_id_away(master)
        assert await it.outcome() is Outcome.ABORTED


async def test_nothing_is_said_of_an_id_that_may_be_anothers_after_two_crashes(
    cluster: LocalCluster,
) -> None:
    async with unanswered(cluster) as it:
        master = cluster.master
        await it.commit()
        master.kill()
        await master.start()
        await it.give_id_away(master)
        await master.sql("CHECKPOINT")
        master.kill()
        await master.start()
        await master_is(it.manager, master)
        assert await it.outcome() is Outcome.UNKNOWN


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "restart"])
async def test_a_commit_that_was_flushed_is_there_after_a_restart(
    crash: bool, cluster: LocalCluster
) -> None:
    async with unanswered(cluster, flushed=True) as it:
        master = cluster.master
        await it.commit()
        # The mark of another transaction tells up to where the WAL had been flushed.
        other = await asyncpg.connect(master.dsn)
        await other.execute("BEGIN")
        await other.execute(f"INSERT INTO {it.table} VALUES (2)")  # noqa: S608  # ours
        later = await mark_of(other, master)
        await other.close()
        it.manager._parts.commits.note_mark(later)  # noqa: SLF001  # as `run` does
        if crash:
            master.kill()
            await master.start()
        else:
            await master.restart()
        assert await it.outcome() is Outcome.COMMITTED


async def test_a_server_that_goes_on_after_a_crash_of_its_own_is_another(
    cluster: LocalCluster,
) -> None:
    async with unanswered(cluster) as it:
        master = cluster.master
        await it.commit()
        started = await master.sql("SELECT pg_postmaster_start_time()")
        await crash_within(master)
        assert await master.sql("SELECT pg_postmaster_start_time()") == started
        await it.give_id_away(master)
        assert await it.outcome() is Outcome.ABORTED


async def test_what_a_promoted_replica_has_replayed_is_committed(cluster: LocalCluster) -> None:
    async with unanswered(cluster, flushed=True) as it:
        master, (new, other) = cluster.master, cluster.replicas
        await it.commit()
        await replayed(new, await master.sql("SELECT pg_current_wal_lsn()"))
        # The probe tells that the commit had been flushed.
        await it.manager.wait_next_pool_check()
        master.kill()
        await new.promote()
        assert await it.outcome() is Outcome.COMMITTED
        # The new master starts anew and no longer tells where its timeline began.
        await master_is(it.manager, new)
        new.kill()
        await new.start()
        assert await it.outcome() is Outcome.COMMITTED
        # Two promotions, one after the other.
        await other.rejoin(new)
        await it.manager.wait_next_pool_check()
        new.kill()
        await other.promote()
        assert await it.outcome() is Outcome.COMMITTED


async def replayed(node: LocalNode, position: str) -> None:
    async with asyncio.timeout(20):
        while await node.sql(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") != "t":
            await asyncio.sleep(0.005)


async def test_what_a_promoted_replica_has_never_received_is_aborted(
    cluster: LocalCluster,
) -> None:
    async with unanswered(cluster, flushed=True) as it:
        master, replicas = cluster.master, cluster.replicas
        for node in replicas:
            await node.stop()
        await it.commit()
        master.kill()
        await replicas[0].start()
        await replicas[0].promote()
        await it.give_id_away(replicas[0])
        assert await it.outcome() is Outcome.ABORTED


@pytest.mark.parametrize("giver", ["the old master", "the new one"])
async def test_nothing_is_said_of_an_id_that_is_given_away_after_a_crash(
    cluster: LocalCluster, giver: str
) -> None:
    async with unanswered(cluster) as it:
        master, (new, _) = cluster.master, cluster.replicas
        await it.commit()
        master.kill()
        await master.start()
        if giver == "the old master":
            await it.give_id_away(master)
        else:  # the old master writes beyond the mark, but no transaction ends there
            await master.sql("SELECT pg_switch_wal()")
            await master.sql("CHECKPOINT")
        await replayed(new, await master.sql("SELECT pg_current_wal_flush_lsn()"))
        master.kill()
        await new.promote()
        await master_is(it.manager, new)
        if giver == "the new one":
            await it.give_id_away(new)
        assert await it.outcome() is Outcome.UNKNOWN


async def test_a_timeline_of_the_same_number_is_not_the_same(cluster: LocalCluster) -> None:
    await asyncio.to_thread(cluster.heal)
    old, (first, second) = cluster.master, cluster.replicas
    # `first` has less of the old timeline and begins a new one. `second` never meets `first` and
    # begins its own timeline much later.
    await first.stop()
    more = "SELECT generate_series(1, 100000) AS i"
    await old.sql(f"CREATE TABLE more AS {more}; DROP TABLE more")
    await replayed(second, await old.sql("SELECT pg_current_wal_lsn()"))
    for node in (old, second):
        await node.stop()
    await first.start()
    await first.promote()
    table = f"t_{uuid4().hex}"
    await first.sql(f"CREATE TABLE {table} (i int); GRANT ALL ON {table} TO app")
    async with PoolManager(cluster.dsn, refresh_delay=0.2, refresh_timeout=0.5) as manager:
        await manager.ready(1, 0)
        session = await asyncpg.connect(first.dsn)
        await session.execute("BEGIN")
        await session.execute(f"INSERT INTO {table} VALUES (1)")  # noqa: S608  # ours
        mark = await mark_of(session, first)
        it = Unanswered(manager, table, mark, session)
        await it.commit()
        session.terminate()
        first.kill()
        await second.start()
        await second.promote()
        assert await second.sql("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)") == (
            f"{mark.timeline:08X}"
        )
        await it.give_id_away(second)
        assert await it.outcome() is Outcome.ABORTED
