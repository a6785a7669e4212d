"""What is specific to the aiopg.sa adapter: connections that users can close, SQLAlchemy's ways."""

from __future__ import annotations

import asyncio
import socket
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

if not version("sqlalchemy").startswith("1.4."):
    pytest.skip("aiopg.sa works with SQLAlchemy 1.4 alone", allow_module_level=True)

from sqlalchemy import Column, Integer, MetaData, Table, func, select

from hasql._adapters.aiopg.transactions import AiopgSaTransaction
from hasql.aiopg_sa import PoolManager
from hasql.driver.transactions import TransactionModes, TransactionState
from testbed.kits.aiopg import Overtaken
from testbed.scene import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hasql.testing import LocalCluster

pytestmark = pytest.mark.usefixtures("nothing_unheard")


async def pid(connection: Any) -> object:
    return await connection.scalar("SELECT pg_backend_pid()")


@pytest.fixture
async def numbers(manager: Any) -> Table:
    async with manager.acquire_master() as connection:
        await connection.execute("DROP TABLE IF EXISTS numbers; CREATE TABLE numbers (i int)")
    return Table("numbers", MetaData(), Column("i", Integer))


@pytest.fixture
async def manager(pg_cluster: LocalCluster) -> AsyncIterator[Any]:
    """A manager with one connection. It has no type, because aiopg.sa's methods have none."""
    kwargs = {"minsize": 1, "maxsize": 1}
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        yield manager


async def test_expressions_are_taken(manager: Any, numbers: Table) -> None:
    async with manager.acquire_master() as connection:
        await connection.execute(numbers.insert().values(i=7))
        rows = await connection.execute(select(numbers.c.i))
        assert [row.i for row in await rows.fetchall()] == [7]


@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_what_is_not_committed_is_rolled_back_and_costs_no_connection(
    manager: Any, numbers: Table, depth: int
) -> None:
    async with manager.acquire_master() as connection:
        before = await pid(connection)
        transactions = [await connection.begin_nested() for _ in range(depth)]
        await connection.execute(numbers.insert().values(i=1))
    assert not transactions[0].is_active
    async with manager.acquire_master() as connection:
        assert await pid(connection) == before
        assert await connection.scalar(select(func.count()).select_from(numbers)) == 0
        await connection.execute("BEGIN")  # aiopg.sa does not know of this one
    async with manager.acquire_master() as connection:
        assert await pid(connection) == before


async def test_a_minimum_of_none_is_none(pg_cluster: LocalCluster) -> None:
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs={"minsize": 0}) as manager:
        assert manager.metrics().nodes[0].pool_idle == 0
        connection: Any = await manager.acquire_master()
        assert await connection.scalar("SELECT 1") == 1
        await manager.release(connection)
        assert manager.metrics().nodes[0].pool_idle == 1


async def test_what_was_given_back_is_closed_for_good(manager: Any) -> None:
    async with manager.acquire_master() as old:
        before = await pid(old)
    async with manager.acquire_master() as connection:
        assert await pid(connection) == before
        assert old.closed
        await old.close()
        with pytest.raises(Exception, match="closed"):
            await pid(old)
        assert await pid(connection) == before


async def test_one_closed_in_a_transaction_that_aiopg_sa_knows_nothing_of_is_broken(
    manager: Any,
) -> None:
    async with manager.acquire_master() as connection:
        before = await pid(connection)
        await connection.execute("BEGIN")
        await connection.close()
    async with manager.acquire_master() as connection:
        assert await pid(connection) != before


@pytest.mark.parametrize("by_user", [False, True])
async def test_what_is_open_in_two_phases_is_rolled_back_with_the_connection(
    manager: Any, numbers: Table, by_user: bool
) -> None:
    """aiopg.sa 1.4.0 fails here, because it calls methods that it does not have."""
    async with manager.acquire_master() as connection:
        before = await pid(connection)
        transaction = await connection.begin_twophase()
        await connection.execute(numbers.insert().values(i=1))
        with pytest.raises(AttributeError, match="_rollback_twophase_impl"):
            await transaction.rollback()
        if by_user:
            await connection.close()
    async with manager.acquire_master() as connection:
        assert await pid(connection) != before
        assert await connection.scalar(select(func.count()).select_from(numbers)) == 0


async def test_a_savepoint_that_failed_costs_the_connection_alone(manager: Any) -> None:
    async with manager.acquire_master() as connection:
        before = await pid(connection)
        await connection.begin()
        for statement in (connection.execute("SELECT no_such_thing"), connection.begin_nested()):
            with pytest.raises(psycopg2.Error):
                await statement
    async with manager.acquire_master() as connection:
        assert await pid(connection) != before


async def test_a_transaction_that_could_not_begin_costs_no_connection(manager: Any) -> None:
    async with manager.acquire_master() as connection:
        before = await pid(connection)
        modes = TransactionModes("no such level")
        transaction = AiopgSaTransaction(connection, connection.connection, modes)
        with pytest.raises(psycopg2.Error):
            await transaction.begin()
        assert transaction.state is TransactionState.ENDED
        await transaction.roll_back()
        assert await pid(connection) == before


@pytest.mark.parametrize("answers", [False, True])
async def test_a_release_that_is_cancelled_loses_no_place(
    manager: Any, pg_cluster: LocalCluster, answers: bool
) -> None:
    master, connection = pg_cluster.master, await manager.acquire_master()
    await connection.begin()
    if not answers:
        master.freeze()
    releasing = asyncio.ensure_future(manager.release(connection))
    await asyncio.sleep(0)
    while answers and connection.in_transaction:
        await asyncio.sleep(0)
    assert releasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await releasing
    if not answers:
        master.thaw()
    for _ in range(3):
        async with asyncio.timeout(10), manager.acquire_master() as connection:
            assert await connection.scalar("SELECT 1") == 1
    [engine] = manager.pools
    assert (engine.size, engine.freesize) == (1, 1)


async def test_a_connection_that_its_user_closes_is_given_back(manager: Any) -> None:
    async with manager.acquire_master() as connection:
        before = await pid(connection)
        await connection.begin()
        await connection.close()
        assert manager.is_connection_closed(connection)
    async with manager.acquire_master() as connection:
        assert await pid(connection) == before
    [engine] = manager.pools
    assert (engine.size, engine.freesize) == (1, 1)


async def test_what_listens_to_the_number_of_a_lost_socket_is_left_alone(
    pg_cluster: LocalCluster,
) -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    kwargs = {"minsize": 0, "maxsize": 2, "connection_factory": Overtaken}
    manager: Any = PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs)
    await manager.ready(1, 0)
    lost = await manager.acquire_master()
    inner = lost.connection
    number = inner.raw.fileno()
    await pg_cluster.master.sql(f"SELECT pg_terminate_backend({await pid(lost)}, 5000)")
    await until(lambda: bool(inner.closed))
    Overtaken.sockets.pop().close()
    one, other = socket.socketpair()
    with one, other:
        assert one.fileno() == number
        loop.add_reader(one, heard.set)
        await manager.terminate()  # breaks the leased connections
        other.send(b"heard")
        async with asyncio.timeout(5):
            await heard.wait()
        loop.remove_reader(one)
    assert not Overtaken.sockets
