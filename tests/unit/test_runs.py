"""Units of work: which errors, at which step of the transaction, make the work be done again."""

from __future__ import annotations

import asyncio
import logging
import pickle
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from random import Random
from threading import Thread
from time import sleep
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from hasql.cluster.probe import ProbeForm
from hasql.driver.transactions import TransactionState
from hasql.errors import (
    BreakerOpenError,
    ConfigurationError,
    HasqlError,
    LeaseTerminatedError,
    NotAvailableError,
    OverloadedError,
    PoolManagerClosedError,
    RateLimitedError,
)
from hasql.metrics import BreakerMetrics, BreakerState, RunMetrics
from hasql.resilience import (
    Breaker,
    Category,
    CommitUnknownError,
    Lifecycle,
    Outcome,
    RetryPolicy,
    RolledBackError,
)
from hasql.resilience.commit_outcome import outcome_of_all
from testbed.fake_driver import (
    DriverError,
    FakeConnection,
    ServerError,
    fake_cluster,
    manager_of,
    until,
)
from testbed.fake_threads import ThreadManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from testbed.fake_driver import FakeManager, FakeServer

_T = TypeVar("_T")

#: Three attempts, with pauses too short to notice.
POLICY = RetryPolicy(attempts=3, seconds=20, first=0.0001, longest=0.001)


class OwnError(Exception):
    """An error of the application's."""


def lost(connection: FakeConnection) -> None:
    """End the connection, and raise the error that a driver raises."""
    connection.lose()
    raise ConnectionResetError("the connection was closed in the middle of the operation")


def refused(sqlstate: str, *, fatal: bool = False) -> Callable[[FakeConnection], None]:
    """Return an answer that is an error with a code; a fatal one ends the connection."""

    def answer(connection: FakeConnection) -> None:
        if connection.transaction.state is TransactionState.OPEN:
            connection.transaction.state = TransactionState.FAILED
        if fatal:
            connection.lose()
        raise ServerError(sqlstate)

    return answer


def raising(error: BaseException) -> Callable[[FakeConnection], None]:
    """Return an answer that raises an error and leaves the connection intact."""

    def answer(_: FakeConnection) -> None:
        raise error

    return answer


@pytest.fixture
async def servers() -> dict[str, FakeServer]:
    """A master and two replicas; transactions write, and the master does not know their outcome."""
    servers = fake_cluster("a master", "b replica", "c replica")
    servers["a"].xid = 7
    servers["a"].statuses[7] = None
    return servers


@pytest.fixture
async def manager(servers: dict[str, FakeServer]) -> AsyncIterator[FakeManager]:
    """A manager of these servers, for tasks."""
    async with manager_of(servers) as manager:
        await manager.ready()
        yield manager


class Work:
    """Work that calls `meets` each time, and counts its calls."""

    def __init__(self, meets: Callable[[FakeConnection], object] = lambda _: None) -> None:
        self.meets = meets
        self.calls = 0
        self.on: list[str] = []

    async def __call__(self, connection: FakeConnection) -> str:
        self.calls += 1
        self.on.append(connection.server.host.host)
        self.meets(connection)
        return "done"

    def in_thread(self, connection: FakeConnection) -> str:
        self.calls += 1
        self.on.append(connection.server.host.host)
        self.meets(connection)
        return "done"


#: Errors, and the steps of a transaction at which each makes the work be done again. "?" means
#: that the error, in answer to COMMIT, leaves the outcome open.
MEETS: dict[str, tuple[Callable[[FakeConnection], None], str]] = {
    "connection lost": (lost, "begin work mark commit?"),
    "57P01": (refused("57P01", fatal=True), "begin work mark commit?"),
    "57P02": (refused("57P02", fatal=True), "begin work mark commit?"),
    "57P03": (refused("57P03", fatal=True), "begin work mark commit?"),
    "08006": (refused("08006", fatal=True), "begin work mark commit?"),
    "08P01": (refused("08P01", fatal=True), "begin work mark commit?"),
    "40001": (refused("40001"), "begin work mark commit"),
    "40P01": (refused("40P01"), "begin work mark commit"),
    "53300": (refused("53300"), "begin work mark commit"),
    # In answer to COMMIT, it is not known which connection is meant.
    "08006 of another server": (refused("08006"), "commit?"),
    # The answer of a standby, in a master's place behind a pooler, to the question how far its
    # log has come.
    "55000": (refused("55000"), "mark"),
    "55P03": (refused("55P03"), ""),
    "57014": (refused("57014"), ""),
    "25006": (refused("25006"), ""),
    # An error that closes the connection is no answer to COMMIT, whatever its code.
    "25P03": (refused("25P03", fatal=True), "commit?"),
    "25P04": (refused("25P04", fatal=True), "commit?"),
    "57P05": (refused("57P05", fatal=True), "commit?"),
    "53100 that is fatal": (refused("53100", fatal=True), "commit?"),
    "58030 that is fatal": (refused("58030", fatal=True), "commit?"),
    "XX000 that is fatal": (refused("XX000", fatal=True), "commit?"),
    # The error of a pooler that has lost its connection to the server and keeps ours.
    "58000": (refused("58000"), "commit?"),
    "23505": (refused("23505"), ""),
    "22012": (refused("22012"), ""),
    "42P01": (refused("42P01"), ""),
    "0A000": (refused("0A000"), ""),
    "53100": (refused("53100"), ""),
    "P0001": (refused("P0001"), ""),
    "own": (raising(OwnError()), "commit?"),
    "another service's": (raising(ConnectionRefusedError()), "commit?"),
    "out of time": (raising(TimeoutError()), "commit?"),
    "overloaded": (raising(OverloadedError()), "commit?"),
    "rate limited": (raising(RateLimitedError()), "commit?"),
    "breaker open": (raising(BreakerOpenError()), "commit?"),
    "closed": (raising(PoolManagerClosedError()), "commit?"),
    "cancelled": (raising(asyncio.CancelledError()), ""),
    "interrupted": (raising(KeyboardInterrupt()), ""),
}
STEPS = ("begin", "work", "mark", "commit")
#: Errors of the server about the mark, which hasql asks for: the work is done again without it.
NO_MARK = {"42P01", "0A000"}


def expected(name: str, step: str) -> tuple[int, bool]:
    """Return how often the work is called, and whether its outcome stays open."""
    words = MEETS[name][1].split()
    if f"{step}?" in words:
        return 1, True
    calls = 3 if step in words else 1
    return (calls if step != "begin" else 0), False


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", MEETS)
async def test_what_is_met_and_how_far_it_had_come_says_what_comes_next(
    servers: dict[str, FakeServer], manager: FakeManager, name: str, step: str
) -> None:
    meets, _ = MEETS[name]
    work = Work(meets if step == "work" else lambda _: None)
    if step != "work":
        servers["a"].script[step] = meets
    with pytest.raises(BaseException) as met:  # noqa: PT011  # of many kinds
        await manager.run(work, retry=POLICY)
        if step == "mark" and name in NO_MARK:
            raise OwnError  # the work was done, without a mark
    if step == "mark" and name in NO_MARK:
        assert (work.calls, servers["a"].ended[-1]) == (2, "COMMIT")
        return
    calls, is_open = expected(name, step)
    assert work.calls == calls
    assert isinstance(met.value, CommitUnknownError) == is_open
    assert "COMMIT" not in servers["a"].ended
    assert sum(node.in_flight for node in manager.metrics().nodes) == 0


@pytest.mark.parametrize("name", ["connection lost", "40001", "57P01"])
@pytest.mark.parametrize("step", ["begin", "work", "mark"])
def test_a_thread_is_told_the_same(name: str, step: str) -> None:
    meets, _ = MEETS[name]

    def once(connection: FakeConnection) -> None:
        connection.server.script.pop(step, None)
        work.meets = lambda _: None
        meets(connection)

    work = Work(once if step == "work" else lambda _: None)
    with thread_manager() as (manager, servers):
        servers["a"].xid = 7
        if step != "work":
            servers["a"].script[step] = once
        assert manager.run(work.in_thread, retry=POLICY) == "done"
        assert servers["a"].ended[-1] == "COMMIT"
    assert work.calls == (1 if step == "begin" else 2)


class thread_manager:  # noqa: N801  # used like a function
    """A manager for threads of a master and a replica."""

    def __enter__(self) -> tuple[ThreadManager, dict[str, FakeServer]]:
        servers = fake_cluster("a master", "b replica")
        self._manager = ThreadManager(servers)
        self._manager.__enter__()
        self._manager.ready()
        return self._manager, servers

    def __exit__(self, *_: object) -> None:
        self._manager.close()


# The outcome of a commit


@pytest.mark.parametrize(("status", "calls"), [("committed", 1), ("aborted", 2)])
async def test_a_commit_whose_answer_is_lost_is_found_out(
    servers: dict[str, FakeServer], manager: FakeManager, status: str, calls: int
) -> None:
    def once(connection: FakeConnection) -> None:
        del servers["a"].script["commit"]
        servers["a"].statuses[7] = status
        lost(connection)

    servers["a"].script["commit"] = once
    work = Work()
    assert await manager.run(work, retry=POLICY) == "done"
    assert work.calls == calls
    assert manager.metrics().runs.commits_found == 1


@pytest.mark.parametrize(("status", "calls"), [("committed", 1), ("aborted", 2)])
def test_a_threads_commit_whose_answer_is_lost_is_found_out(status: str, calls: int) -> None:
    with thread_manager() as (manager, servers):

        def once(connection: FakeConnection) -> None:
            del servers["a"].script["commit"]
            servers["a"].statuses[7] = status
            lost(connection)

        servers["a"].xid, servers["a"].script["commit"] = 7, once
        work = Work()
        assert manager.run(work.in_thread, retry=POLICY) == "done"
        assert work.calls == calls


@pytest.mark.parametrize(
    ("sqlstate", "status", "calls"),
    [("58030", "committed", 1), ("58030", "aborted", 2), ("25P04", "committed", 1)],
)
async def test_a_fatal_answer_to_commit_is_none_and_what_was_done_is_found_out(
    servers: dict[str, FakeServer], manager: FakeManager, sqlstate: str, status: str, calls: int
) -> None:
    def once(connection: FakeConnection) -> None:
        del servers["a"].script["commit"]
        servers["a"].statuses[7] = status
        refused(sqlstate, fatal=True)(connection)

    servers["a"].script["commit"] = once
    work = Work()
    assert await manager.run(work, retry=POLICY) == "done"
    assert work.calls == calls


async def test_a_limit_of_the_session_that_has_ended_a_commit_is_not_run_into_again(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    servers["a"].statuses[7] = "aborted"
    servers["a"].script["commit"] = refused("25P04", fatal=True)
    work = Work()
    with pytest.raises(ServerError, match="25P04"):
        await manager.run(work, retry=POLICY)
    assert work.calls == 1
    assert manager.metrics().runs.commits_found == 1


@pytest.mark.parametrize("sqlstate", ["58030", "25P04"])
def test_a_thread_finds_out_what_a_fatal_answer_to_commit_leaves_open(sqlstate: str) -> None:
    with thread_manager() as (manager, servers):

        def once(connection: FakeConnection) -> None:
            del servers["a"].script["commit"]
            servers["a"].statuses[7] = "committed"
            refused(sqlstate, fatal=True)(connection)

        servers["a"].xid, servers["a"].script["commit"] = 7, once
        work = Work()
        assert manager.run(work.in_thread, retry=POLICY) == "done"
        assert work.calls == 1


TERMINATES = Lifecycle(leak_threshold=0.05, leak_action="terminate")


def a_conflict_first(conflict: bool) -> Work:
    """Make work that meets a conflict in its first attempt, if at all."""

    def meets(connection: FakeConnection) -> None:
        if conflict and work.calls == 1:
            refused("40001")(connection)

    work = Work(meets)
    return work


@pytest.mark.parametrize("conflict", [False, True])
async def test_20_what_is_terminated_right_behind_the_answer_to_commit_is_done_once(
    servers: dict[str, FakeServer], conflict: bool
) -> None:
    async with manager_of(servers, lifecycle=TERMINATES) as manager:
        await manager.ready()
        # The lease ends before the task gets the answer, as if another task kept the loop busy.
        terminated = partial(until, lambda: manager.metrics().leases_overdue == 1)
        servers["a"].script["commit"] = lambda _: terminated()
        work = a_conflict_first(conflict)
        assert await manager.run(work, retry=POLICY) == "done"
        assert (work.calls, servers["a"].ended.count("COMMIT")) == (1 + conflict, 1)
        await until(lambda: sum(node.in_flight for node in manager.metrics().nodes) == 0)


@pytest.mark.parametrize("resolves", [False, True])
@pytest.mark.parametrize("notices", [False, True])
async def test_18_work_that_is_terminated_is_not_begun_again_and_tells_nothing_of_its_master(
    servers: dict[str, FakeServer], notices: bool, resolves: bool
) -> None:
    breaker = Breaker(threshold=1)
    async with manager_of(servers, lifecycle=TERMINATES, breaker=breaker) as manager:
        await manager.ready()
        # There are two connections: what happens to one must not affect the other.
        async with manager.acquire_master(), manager.acquire_master():
            pass
        pool = next(pool for pool in manager.driver.pools if pool.server is servers["a"])
        calls, probes = 0, len(servers["a"].probes)

        async def work(connection: FakeConnection) -> None:
            nonlocal calls
            calls += 1
            await until(lambda: connection.closed)
            if notices:
                await connection.run()

        with pytest.raises(ConnectionResetError if notices else LeaseTerminatedError) as met:
            await manager.run(work, retry=POLICY, resolve_commits=resolves)
        assert calls == 1
        assert manager.category(met.value) is Category.APPLICATION
        assert not manager.retriable(met.value)
        told = "".join(getattr(met.value, "__notes__", [])) or str(met.value)
        assert "leak_threshold" in told
        assert manager.metrics().breaker == BreakerMetrics(BreakerState.CLOSED, 0, 0, 0)
        assert not pool.destinations.maybe_dead
        assert len(servers["a"].probes) == probes


def test_18_a_threads_work_that_is_terminated_is_not_begun_again() -> None:
    servers = fake_cluster("a master")
    with ThreadManager(servers, lifecycle=TERMINATES) as manager:
        manager.ready(1, 0)

        def wait(connection: FakeConnection) -> None:
            while not connection.closed:
                sleep(0.001)
            connection.use()  # type: ignore[attr-defined]  # a thread's connection has `use`

        work = Work(wait)
        with pytest.raises(ConnectionResetError) as met:
            manager.run(work.in_thread, retry=POLICY)
        assert work.calls == 1
        assert manager.category(met.value) is Category.APPLICATION


@pytest.mark.parametrize("conflict", [False, True])
def test_20_a_threads_work_that_is_terminated_right_behind_that_is_done_once(
    conflict: bool,
) -> None:
    servers = fake_cluster("a master", "b replica")
    servers["a"].xid = 7
    with ThreadManager(servers, lifecycle=TERMINATES) as manager:
        manager.ready()

        def terminated(_: FakeConnection) -> None:
            while manager.metrics().leases_overdue < 1:
                sleep(0.001)

        servers["a"].script["commit"] = terminated
        work = a_conflict_first(conflict)
        assert manager.run(work.in_thread, retry=POLICY) == "done"
        assert (work.calls, servers["a"].ended.count("COMMIT")) == (1 + conflict, 1)


@pytest.mark.parametrize("ends", [lost, refused("57P01")], ids=["without a word", "57P01"])
async def test_20_a_connection_that_is_lost_behind_the_answer_to_commit_changes_nothing(
    servers: dict[str, FakeServer], manager: FakeManager, ends: Callable[[FakeConnection], None]
) -> None:
    async def leave(connection: FakeConnection, error: BaseException | None) -> None:
        if error is None:
            ends(connection)

    for pool in manager.driver.pools:
        pool.leave_block = leave
    work = a_conflict_first(conflict=True)
    assert await manager.run(work, retry=POLICY) == "done"
    assert (work.calls, servers["a"].ended) == (2, ["ROLLBACK", "COMMIT"])


async def test_what_a_signal_raises_behind_the_answer_to_commit_is_raised(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    async def leave(_: object, error: BaseException | None) -> None:
        if error is None:
            raise OwnError

    for pool in manager.driver.pools:
        pool.leave_block = leave
    work = a_conflict_first(conflict=True)
    with pytest.raises(OwnError) as raised:
        await manager.run(work, retry=POLICY)
    assert (work.calls, servers["a"].ended) == (2, ["ROLLBACK", "COMMIT"])
    assert not hasattr(raised.value, "__notes__"), "run did not give up"


async def test_one_that_nobody_knows_of_can_be_asked_for_again(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    servers["a"].script["commit"] = lost
    with pytest.raises(CommitUnknownError) as met:
        await manager.run(Work(), retry=POLICY)
    assert (met.value.xid, met.value.timeline) == (7, 1)
    assert await met.value.outcome(5) is Outcome.UNKNOWN
    servers["a"].statuses[7] = "committed"
    assert await met.value.outcome(5) is Outcome.COMMITTED
    assert manager.metrics().runs.commits_unknown == 1


def test_an_unknown_outcome_can_be_told_to_another_process() -> None:
    with thread_manager() as (manager, servers):
        servers["a"].xid, servers["a"].statuses[7] = 7, None
        servers["a"].script["commit"] = lost
        with pytest.raises(CommitUnknownError) as met:
            manager.run(Work().in_thread, retry=POLICY)
        met.value.add_note("mine")
        there = pickle.loads(pickle.dumps(met.value))  # noqa: S301  # ours
        assert type(there) is CommitUnknownError
        assert (there.xid, there.host, there.timeline) == (7, servers["a"].host, 1)
        assert (str(there), there.__notes__) == (str(met.value), ["mine"])
        with pytest.raises(HasqlError, match="pickled"):
            there.outcome()
        assert met.value.outcome(5) is Outcome.UNKNOWN


async def test_what_has_written_nothing_is_done_again_where_its_commit_is_lost(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    servers["a"].xid = None
    servers["a"].script["commit"] = lost
    work = Work()
    with pytest.raises(ConnectionResetError):
        await manager.run(work, retry=POLICY)
    assert work.calls == 3


async def test_idempotent_work_is_done_again_where_nobody_knows(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    servers["a"].script["commit"] = lost
    work = Work()
    with pytest.raises(CommitUnknownError):
        await manager.run(work, retry=POLICY, idempotent=True, resolve_commits=False)
    assert work.calls == 3


def lost_and_not_known(then: Callable[[FakeConnection], object]) -> Callable[..., object]:
    """Lose the first COMMIT, of which the server then knows nothing; later ones call `then`."""

    def commit(connection: FakeConnection) -> None:
        connection.server.script["commit"] = then
        connection.server.statuses[7] = None
        lost(connection)

    return commit


async def test_idempotent_work_that_may_be_done_is_not_said_not_to_be(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    a = servers["a"]
    a.script["commit"] = lost_and_not_known(lost)
    a.script["begin"] = lambda _: a.script.update(begin=lost)  # from the second attempt on
    with pytest.raises(CommitUnknownError) as met:
        await manager.run(Work(), retry=POLICY, idempotent=True)
    assert isinstance(met.value.__cause__, ConnectionResetError)
    assert met.value.xid == 7
    assert await met.value.outcome(5) is Outcome.UNKNOWN
    a.statuses[7] = "committed"
    assert await met.value.outcome(5) is Outcome.COMMITTED


async def test_what_idempotent_work_raises_itself_is_raised_after_a_commit_in_doubt(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    servers["a"].script["commit"] = lost_and_not_known(lost)
    calls = 0

    async def work(_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OwnError

    with pytest.raises(OwnError):
        await manager.run(work, retry=POLICY, idempotent=True)


def test_a_thread_is_told_so_of_idempotent_work_too() -> None:
    with thread_manager() as (manager, servers):
        a = servers["a"]
        a.xid, a.script["commit"] = 7, lost_and_not_known(lost)
        with pytest.raises(CommitUnknownError) as met:
            manager.run(Work().in_thread, retry=POLICY, idempotent=True)
        assert met.value.outcome(5) is Outcome.UNKNOWN
        a.statuses[7] = "aborted"
        assert met.value.outcome(5) is Outcome.ABORTED


def test_work_is_done_if_any_of_its_commits_is_and_not_done_if_none_is() -> None:
    done, not_done, unknown = Outcome.COMMITTED, Outcome.ABORTED, Outcome.UNKNOWN
    assert outcome_of_all([not_done, unknown, done]) is done
    assert outcome_of_all([not_done, unknown]) is unknown
    assert outcome_of_all([not_done, not_done]) is not_done


async def test_without_resolving_commits_nothing_is_asked_and_nobody_knows(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    asked: list[object] = []
    servers["a"].script["mark"] = asked.append
    work = Work()
    assert await manager.run(work, resolve_commits=False) == "done"
    servers["a"].script["commit"] = lost
    with pytest.raises(CommitUnknownError) as met:
        await manager.run(work, retry=POLICY, resolve_commits=False)
    assert not asked
    assert met.value.xid is None
    assert isinstance(met.value.__cause__, ConnectionResetError)
    assert manager.category(met.value) is Category.INFRASTRUCTURE
    assert not manager.retriable(met.value)


async def test_a_standby_in_a_masters_place_does_not_end_the_finding_out_of_commits(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    a = servers["a"]
    a.script["mark"] = refused("55000")
    with pytest.raises(ServerError) as met:
        await manager.run(Work(), retry=POLICY)
    assert manager.category(met.value) is Category.INFRASTRUCTURE
    assert manager.retriable(met.value)
    asked: list[object] = []
    a.script["mark"] = asked.append
    assert await manager.run(Work()) == "done"
    assert asked


async def test_a_server_that_tells_no_ids_may_be_replaced_by_one_that_does(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    a = servers["a"]
    asked: list[object] = []

    def refuse(connection: FakeConnection) -> None:
        asked.append(connection)
        refused("0A000")(connection)

    a.script["mark"] = refuse
    for _ in range(2):
        assert await manager.run(Work()) == "done"
    assert len(asked) == 1
    a.restart()
    async with asyncio.timeout(20):
        while len(asked) < 2:  # until a probe has seen the restart
            assert await manager.run(Work()) == "done"


async def test_a_server_whose_probe_tells_no_more_than_its_role_may_refuse_by_55000() -> None:
    servers = fake_cluster("a master")
    a = servers["a"]
    a.xid, a.denies = 7, {form: "55000" for form in ProbeForm if form is not ProbeForm.BARE}
    a.script["mark"] = refused("55000")
    async with manager_of(servers) as manager:
        await manager.ready(1, 0)
        assert await manager.run(Work(), retry=POLICY) == "done"


async def test_what_only_reads_by_its_own_word_is_asked_for_no_id(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    asked: list[object] = []
    for server in servers.values():
        server.script["mark"] = asked.append
    assert await manager.run(Work(), read_only=True) == "done"
    assert not asked


# Mistakes


async def test_work_that_went_on_after_an_error_was_rolled_back(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    def swallow(connection: FakeConnection) -> None:
        with suppress(ServerError):
            refused("23505")(connection)

    work = Work(swallow)
    with pytest.raises(RolledBackError) as met:
        await manager.run(work, retry=POLICY)
    assert (work.calls, servers["a"].ended) == (1, ["ROLLBACK"])
    assert manager.category(met.value) is Category.APPLICATION


@pytest.mark.parametrize(
    ("state", "said"),
    [(TransactionState.ENDED, "its own transaction"), (TransactionState.BUSY, "still running")],
)
async def test_work_that_leaves_no_transaction_to_commit_is_told_so(
    servers: dict[str, FakeServer], manager: FakeManager, state: TransactionState, said: str
) -> None:
    def leave(connection: FakeConnection) -> None:
        connection.transaction.state = state

    work = Work(leave)
    with pytest.raises(HasqlError, match=said):
        await manager.run(work, retry=POLICY)
    assert work.calls == 1
    assert "COMMIT" not in servers["a"].ended


async def test_work_that_gives_its_connection_back_is_told_so(manager: FakeManager) -> None:
    async def work(connection: FakeConnection) -> None:
        await manager.release(connection)

    with pytest.raises(HasqlError, match="gave its own connection back"):
        await manager.run(work, retry=POLICY)
    assert await manager.run(Work()) == "done"


async def test_a_run_within_a_run_of_the_same_manager_in_the_same_task_is_refused(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    async def nested(_: FakeConnection) -> str:
        return await manager.run(Work())

    with pytest.raises(HasqlError, match="inside a run"):
        await manager.run(nested)

    async def beside(_: FakeConnection) -> str:
        return await asyncio.create_task(manager.run(Work()))

    assert await manager.run(beside) == "done"
    async with manager_of(servers) as other:

        async def elsewhere(_: FakeConnection) -> str:
            return await other.run(Work())

        assert await manager.run(elsewhere) == "done"


def test_a_run_within_a_run_of_the_same_thread_is_refused() -> None:
    with thread_manager() as (manager, _):
        with pytest.raises(HasqlError, match="inside a run"):
            manager.run(lambda _: manager.run(Work().in_thread))

        def beside(_: object) -> str:
            return in_thread(lambda: manager.run(Work().in_thread))

        assert manager.run(beside) == "done"


def in_thread(work: Callable[[], _T]) -> _T:
    done: Future[_T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  # the waiting task gets it
            done.set_exception(error)

    Thread(target=run, daemon=True).start()
    return done.result(10)


async def test_work_of_the_wrong_kind_is_refused(manager: FakeManager) -> None:
    wrong: Any
    for wrong in (None, 1, "work"):
        with pytest.raises(TypeError, match="work must be a function"):
            await manager.run(wrong)
    wrong = Work().in_thread
    with pytest.raises(TypeError, match="coroutine function"):
        await manager.run(wrong)


def test_a_coroutine_function_is_no_work_for_threads() -> None:
    with thread_manager() as (manager, _), pytest.raises(TypeError, match="for threads"):
        _ = manager.run(Work())


@pytest.mark.parametrize(
    ("kwargs", "kind", "said"),
    [
        ({"isolation": "dirty"}, ConfigurationError, "'repeatable read'"),
        ({"isolation": 3}, TypeError, "must be a str"),
        ({"isolation": "serializable", "read_only": True}, ConfigurationError, "repeatable read"),
        ({"retry": 3}, TypeError, "RetryPolicy"),
        ({"read_only": 1}, TypeError, "read_only"),
        ({"idempotent": "yes"}, TypeError, "idempotent"),
        ({"resolve_commits": None}, TypeError, "resolve_commits"),
    ],
)
async def test_arguments_that_cannot_work_are_refused(
    manager: FakeManager, kwargs: dict[str, Any], kind: type[Exception], said: str
) -> None:
    work = Work()
    with pytest.raises(kind, match=said):
        await manager.run(work, **kwargs)
    assert work.calls == 0


@pytest.mark.parametrize(
    "kwargs",
    [{"attempts": 0}, {"seconds": 0}, {"seconds": float("inf")}, {"first": -1}, {"longest": -1}],
)
def test_a_policy_that_cannot_work_is_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RetryPolicy(**kwargs)


# The budget


def test_pauses_are_drawn_from_all_of_a_range_that_doubles() -> None:
    policy, chance = RetryPolicy(first=0.1, longest=0.5), Random(1)  # noqa: S311  # no secret
    for failures, longest in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.5), (5000, 0.5)):
        pauses = [policy.pause(failures, chance) for _ in range(2000)]
        assert 0 <= min(pauses) < 0.05 * longest
        assert 0.95 * longest < max(pauses) <= longest
        assert 0.45 * longest < sum(pauses) / len(pauses) < 0.55 * longest


async def test_no_more_attempts_reach_a_server_than_the_policy_has(manager: FakeManager) -> None:
    work = Work(lost)
    with pytest.raises(ConnectionResetError) as met:
        await manager.run(work, retry=RetryPolicy(attempts=2, first=0.001))
    assert work.calls == 2
    assert "attempt 2" in met.value.__notes__[0]
    work = Work(lost)
    with pytest.raises(ConnectionResetError):
        await manager.run(work, retry=RetryPolicy(attempts=1))
    assert work.calls == 1


async def test_waiting_for_a_host_is_no_attempt_and_may_take_longer_than_one_acquire(
    servers: dict[str, FakeServer],
) -> None:
    async with manager_of(servers, acquire_timeout=0.05, refresh_delay=0.05) as manager:
        await manager.ready()
        servers["a"].kill()
        await until(lambda: not manager.master_pool_count)
        work = Work()
        running = asyncio.create_task(manager.run(work, retry=RetryPolicy(attempts=1)))
        await asyncio.sleep(0.3)
        assert not running.done()
        servers["b"].promote()
        assert await running == "done"
        assert (work.calls, work.on) == (1, ["b"])


async def test_no_host_in_time_ends_it_and_says_what_came_before(
    servers: dict[str, FakeServer],
) -> None:
    async with manager_of(servers, refresh_delay=0.05) as manager:
        await manager.ready()

        def end(connection: FakeConnection) -> None:
            servers["a"].kill()
            lost(connection)

        with pytest.raises(NotAvailableError) as met:
            await manager.run(Work(end), retry=RetryPolicy(seconds=0.3))
        assert isinstance(met.value.__cause__, ConnectionResetError)
        assert manager.category(met.value) is Category.INFRASTRUCTURE


async def test_what_sheds_load_is_not_tried_again(manager: FakeManager) -> None:
    for error in (OverloadedError(), RateLimitedError(), BreakerOpenError()):
        work = Work(raising(error))
        with pytest.raises(type(error)):
            await manager.run(work, retry=POLICY)
        assert work.calls == 1


async def test_read_only_work_goes_on_to_another_replica(manager: FakeManager) -> None:
    def end(connection: FakeConnection) -> None:
        if work.calls == 1:
            connection.server.kill()
            raise ConnectionResetError

    work = Work(end)
    assert await manager.run(work, read_only=True, retry=POLICY) == "done"
    assert sorted(work.on) == ["b", "c"]


async def test_a_cancelled_run_is_rolled_back_and_leaves_nothing(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    began = asyncio.Event()

    async def work(_: FakeConnection) -> None:
        began.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(manager.run(work))
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert servers["a"].ended == ["ROLLBACK"]
    assert await manager.run(Work()) == "done"


async def test_a_rollback_of_a_silent_server_takes_no_longer_than_a_release(
    servers: dict[str, FakeServer],
) -> None:
    async with manager_of(servers, release_timeout=0.05) as manager:
        await manager.ready()

        def freeze(_: FakeConnection) -> None:
            servers["a"].freeze()
            raise OwnError

        with pytest.raises(OwnError):
            await asyncio.wait_for(manager.run(Work(freeze)), 5)
        servers["a"].thaw()


# What errors mean


async def test_25006_of_a_master_that_is_none_any_more_is_tried_again(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    async def work(connection: FakeConnection) -> str:
        if connection.server.host.host == "a":
            servers["a"].master, servers["b"].master = False, True
            servers["b"].timeline += 1
            await connection.run()  # its answer carries the flag
            refused("25006")(connection)
        return "done"

    assert await manager.run(work, retry=RetryPolicy(first=0.001)) == "done"


async def test_hasql_knows_a_25006_that_a_lease_of_its_own_has_met(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    unseen = ServerError("25006")
    assert manager.category(unseen) is Category.APPLICATION
    with pytest.raises(ServerError) as met:
        async with manager.acquire_master() as connection:
            servers["a"].master = False
            await connection.run()
            raise ServerError("25006")
    assert manager.category(met.value) is Category.INFRASTRUCTURE
    assert manager.retriable(met.value)
    async with manager_of(servers) as other:
        assert other.category(met.value) is Category.APPLICATION
    assert isinstance(pickle.loads(pickle.dumps(met.value)), ServerError)  # noqa: S301  # ours


async def test_what_a_driver_says_by_itself_on_a_lost_connection_is_about_the_loss(
    servers: dict[str, FakeServer], manager: FakeManager
) -> None:
    with pytest.raises(DriverError) as met:
        async with manager.acquire_master():
            raise DriverError
    assert manager.category(met.value) is Category.APPLICATION
    with pytest.raises(DriverError) as met:
        async with manager.acquire_master() as connection:
            connection.lose()
            raise DriverError
    assert manager.category(met.value) is Category.INFRASTRUCTURE
    assert manager.retriable(met.value)
    async with manager_of(servers) as other:
        assert other.category(met.value) is Category.APPLICATION
    with pytest.raises(LookupError) as of_application:
        async with manager.acquire_master() as connection:
            connection.lose()
            raise LookupError
    assert manager.category(of_application.value) is Category.APPLICATION


@pytest.mark.parametrize(
    ("error", "category", "retriable"),
    [
        (ServerError("40001"), Category.CONFLICT, True),
        (ServerError("40P01"), Category.CONFLICT, True),
        (ServerError("55P03"), Category.CONFLICT, False),
        (ServerError("53300"), Category.OVERLOAD, True),
        (ServerError("57P01"), Category.INFRASTRUCTURE, True),
        (ServerError("08006"), Category.INFRASTRUCTURE, True),
        (ServerError("28P01"), Category.INFRASTRUCTURE, False),
        (ServerError("23505"), Category.APPLICATION, False),
        (ServerError("25006"), Category.APPLICATION, False),
        (ConnectionResetError(), Category.INFRASTRUCTURE, True),
        (TimeoutError(), Category.APPLICATION, False),
        (TimeoutError(110, "Connection timed out"), Category.INFRASTRUCTURE, True),
        (NotAvailableError(), Category.INFRASTRUCTURE, True),
        (OverloadedError(), Category.OVERLOAD, False),
        (RateLimitedError(), Category.OVERLOAD, False),
        (BreakerOpenError(), Category.INFRASTRUCTURE, False),
        (PoolManagerClosedError(), Category.APPLICATION, False),
        (ConfigurationError(), Category.APPLICATION, False),
        (DriverError(), Category.APPLICATION, False),
        (ValueError(), Category.APPLICATION, False),
        (asyncio.CancelledError(), Category.APPLICATION, False),
    ],
    ids=repr,
)
async def test_of_any_exception_is_said_what_it_is_about_and_whether_run_would_try_again(
    manager: FakeManager,
    error: BaseException,
    category: Category,
    retriable: bool,
) -> None:
    assert manager.category(error) is category
    assert manager.retriable(error) is retriable


async def test_a_pool_that_is_exhausted_is_overload(manager: FakeManager) -> None:
    async with manager.acquire_master(), manager.acquire_master():
        with pytest.raises(NotAvailableError) as met:
            await manager.acquire_master(timeout=0.01)
    assert met.value.exhausted
    assert manager.category(met.value) is Category.OVERLOAD
    assert manager.retriable(met.value)


@pytest.mark.parametrize(
    ("refusal", "category"),
    [
        (ServerError("28000"), Category.INFRASTRUCTURE),
        (ConnectionRefusedError("no"), Category.INFRASTRUCTURE),
        (ServerError("53300"), Category.OVERLOAD),
    ],
)
async def test_a_host_that_lets_nobody_connect_is_exhausted_only_if_it_is_full(
    refusal: Exception, category: Category
) -> None:
    servers = fake_cluster("a master")
    sizes = {"min_size": 0, "max_size": 2}
    async with manager_of(servers, pool_factory_kwargs=sizes, breaker=Breaker(2)) as manager:
        await manager.ready(1, 0)
        async with manager.acquire_master():
            servers["a"].login_error = refusal
            for _ in range(2):
                with pytest.raises(NotAvailableError) as met:
                    await manager.acquire_master(timeout=0.05)
                assert manager.category(met.value) is category
            breaker = manager.metrics().breaker
            assert breaker is not None
            assert breaker.openings == (category is Category.INFRASTRUCTURE)


# What is reported of it


async def test_runs_and_retries_are_counted_and_told(
    manager: FakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    def end(connection: FakeConnection) -> None:
        if work.calls == 1:
            lost(connection)
        if work.calls == 2:
            refused("40001")(connection)

    work = Work(end)
    with caplog.at_level(logging.INFO, "hasql"):
        assert await manager.run(work, retry=POLICY) == "done"
    counted = manager.metrics().runs
    assert counted == RunMetrics(count=1, retries_infrastructure=1, retries_conflict=1)
    told = [record for record in caplog.records if getattr(record, "event", "") == "run_retried"]
    assert [record.levelno for record in told] == [logging.INFO] * 2
    facts = [(r.__dict__["host"], r.__dict__["attempt"], r.__dict__["sqlstate"]) for r in told]
    assert facts == [("a:5432", 1, None), ("a:5432", 2, "40001")]


async def test_a_server_that_tells_no_ids_is_asked_once_and_that_is_told(
    servers: dict[str, FakeServer], manager: FakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[object] = []

    def deny(connection: FakeConnection) -> None:
        asked.append(connection)
        refused("42501")(connection)

    servers["a"].script["mark"] = deny
    work = Work()
    assert await manager.run(work, retry=RetryPolicy(attempts=1)) == "done"
    assert await manager.run(work) == "done"
    assert (work.calls, len(asked)) == (3, 1)
    (told,) = [x for x in caplog.records if "does not report transaction ids" in x.getMessage()]
    assert told.levelno == logging.WARNING
    servers["a"].script["commit"] = lost
    with pytest.raises(CommitUnknownError):
        await manager.run(work)
