"""What is particular to sessions of threads that route themselves."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import ForeignKey, event, func, select, text, update
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
)

from hasql.errors import ConfigurationError, HasqlError, PoolManagerClosedError, StaleReadError
from hasql.sync.sqlalchemy import PoolManager, sessionmaker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.testing import LocalCluster


class Base(DeclarativeBase):
    pass


class Shop(Base):
    __tablename__ = "sync_routed_shop"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    stock: Mapped[list[Stock]] = relationship(back_populates="shop", cascade="all, delete-orphan")


class Stock(Base):
    __tablename__ = "sync_routed_stock"
    id: Mapped[int] = mapped_column(primary_key=True)
    left: Mapped[int]
    shop_id: Mapped[int] = mapped_column(ForeignKey("sync_routed_shop.id"))
    shop: Mapped[Shop] = relationship(back_populates="stock")


@pytest.fixture(params=["psycopg", "psycopg2"])
def manager(pg_cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[PoolManager]:
    dsn = pg_cluster.dsn.replace("postgresql://", f"postgresql+{request.param}://", 1)
    kwargs = {"pool_size": 1, "max_overflow": 0}
    with PoolManager(dsn, refresh_delay=0.2, pool_factory_kwargs=kwargs) as manager:
        manager.ready(1, 2)
        with manager.acquire_master() as connection:
            Base.metadata.create_all(connection)
            connection.execute(text(f"TRUNCATE {', '.join(Base.metadata.tables)}"))
            with Session(connection) as session:
                session.add(Shop(id=1, name="x", stock=[Stock(id=i, left=100) for i in (1, 2, 3)]))
                session.commit()
            connection.commit()
        asyncio.run(replayed(pg_cluster))
        yield manager
        assert leased(manager) == []


async def replayed(cluster: LocalCluster) -> None:
    lsn = await cluster.master.sql("SELECT pg_current_wal_lsn()")
    for replica in cluster.replicas:
        while await replica.sql(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'") != "t":
            await asyncio.sleep(0.01)


@contextmanager
def past(cluster: LocalCluster, sql: str) -> Iterator[None]:
    """Change something on the master that the replicas do not show during the block."""

    async def pause() -> None:
        for replica in cluster.replicas:
            await replica.sql("SELECT pg_wal_replay_pause()")
            while await replica.sql("SELECT pg_get_wal_replay_pause_state()") != "paused":
                await asyncio.sleep(0.01)
        await cluster.master.sql(sql)

    async def resume() -> None:
        for replica in cluster.replicas:
            await replica.sql("SELECT pg_wal_replay_resume()")

    try:
        asyncio.run(pause())
        yield
    finally:
        asyncio.run(resume())


def leased(manager: PoolManager) -> list[str]:
    nodes = manager.metrics().nodes
    return [node.role.name for node in nodes for _ in range(node.in_flight)]


def left(cluster: LocalCluster, number: int = 1) -> str:
    found = asyncio.run(cluster.master.sql(LEFT))
    return found.split()[number - 1]


LEFT = """SELECT string_agg("left"::text, ' ' ORDER BY id) FROM sync_routed_stock"""
SEVENTY = 'UPDATE sync_routed_stock SET "left" = 70 WHERE id = 1'


@pytest.fixture
def maker(manager: PoolManager) -> sessionmaker[Session]:
    return sessionmaker(manager, route="auto")


def test_it_reads_from_a_replica_until_it_writes(
    maker: sessionmaker[Session], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    with maker() as session:
        assert isinstance(session, Session)
        assert leased(manager) == []
        stock = session.get_one(Stock, 1)
        assert stock.shop.name == "x"  # loaded from there, too
        assert leased(manager) == ["REPLICA"]
        assert "FROM sync_routed_stock" in str(session.query(Stock))
        assert session.query(Stock).count() == 3
        assert leased(manager) == ["REPLICA"]
        stock.left -= 10
        assert session.query(func.sum(Stock.left)).scalar() == 290
        assert leased(manager) == ["MASTER"]
        session.commit()
        assert leased(manager) == []
        asyncio.run(replayed(pg_cluster))
        assert stock.left == 90
        assert leased(manager) == ["REPLICA"]
    assert leased(manager) == []
    assert left(pg_cluster) == "90"
    with pytest.raises(InvalidRequestError, match="block of this session has ended"):
        session.scalar(select(1))


def test_an_update_computed_from_the_past_is_not_lost(
    maker: sessionmaker[Session], pg_cluster: LocalCluster
) -> None:
    def take() -> None:
        with maker.begin() as session:
            stock = session.get_one(Stock, 1)
            assert stock.left == 100
            stock.left -= 10

    with past(pg_cluster, SEVENTY):
        with pytest.raises(StaleReadError, match=r"Stock\(1\) .* different values for left:"):
            take()
        assert left(pg_cluster) == "70"


def test_while_the_manager_drains_it_goes_on_where_it_is_but_does_not_move(
    maker: sessionmaker[Session], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    def use() -> None:
        with maker() as session:
            stock = session.get_one(Stock, 1)
            draining.start()
            with suppress(PoolManagerClosedError):
                while True:
                    with manager.acquire_replica():  # one of the two replicas is free
                        pass
            assert session.scalar(select(Stock.left).where(Stock.id == 3)) == 100
            stock.left -= 10
            with pytest.raises(PoolManagerClosedError):
                session.commit()

    draining = Thread(target=manager.drain)
    use()
    draining.join()
    assert left(pg_cluster) == "100"


def test_rows_that_a_replica_has_sent_are_no_objects_after_the_move(
    maker: sessionmaker[Session], pg_cluster: LocalCluster
) -> None:
    with past(pg_cluster, SEVENTY):
        with maker.begin() as session:
            rows = session.scalars(select(Stock).order_by(Stock.id))
            session.execute(update(Stock).where(Stock.id == 3).values(left=3))
            stock = rows.first()
            assert stock is not None
            assert stock.left == 70
            stock.left -= 10
        assert (left(pg_cluster), left(pg_cluster, 3)) == ("60", "3")
    asyncio.run(replayed(pg_cluster))
    with maker.begin() as session:
        for stock in session.scalars(select(Stock).order_by(Stock.id)):
            stock.left += 1
            session.flush()
    assert (left(pg_cluster), left(pg_cluster, 3)) == ("61", "4")


def test_an_orphan_is_compared_before_it_is_deleted(
    maker: sessionmaker[Session], pg_cluster: LocalCluster
) -> None:
    def sell_out() -> None:
        with maker.begin() as session:
            shop = session.get_one(Shop, 1, options=[selectinload(Shop.stock)])
            shop.stock[:] = [each for each in shop.stock if each.left < 100]

    with past(pg_cluster, SEVENTY):
        with pytest.raises(StaleReadError):
            sell_out()
        assert left(pg_cluster) == "70"
    asyncio.run(replayed(pg_cluster))
    sell_out()
    assert asyncio.run(pg_cluster.master.sql("SELECT count(*) FROM sync_routed_stock")) == "1"


@pytest.mark.parametrize("of_class", [False, True], ids=["of_the_session", "of_its_class"])
def test_what_a_listener_changes_in_a_flush_is_compared(
    manager: PoolManager, pg_cluster: LocalCluster, of_class: bool
) -> None:
    class OwnSession(Session):
        """A class that gets its listener after its sessions are made to route themselves."""

    maker = sessionmaker(manager, class_=OwnSession, route="auto", expire_on_commit=False)

    def sell() -> None:
        with maker() as session:
            stock = session.get_one(Stock, 1)
            session.commit()

            def take_one(*_: object) -> None:
                stock.left -= 1

            event.listen(OwnSession if of_class else session, "before_flush", take_one, once=True)
            session.add(Stock(id=4, left=1, shop_id=1))
            session.commit()

    with past(pg_cluster, SEVENTY):
        with pytest.raises(StaleReadError):
            sell()
        assert left(pg_cluster) == "70"
    asyncio.run(replayed(pg_cluster))
    sell()
    assert left(pg_cluster) == "69"


def test_a_cascade_of_deletes_is_compared(
    maker: sessionmaker[Session], pg_cluster: LocalCluster
) -> None:
    def close() -> None:
        with maker.begin() as session:
            query = select(Shop).options(joinedload(Shop.stock))
            session.delete(session.scalars(query).unique().one())

    with past(pg_cluster, SEVENTY), pytest.raises(StaleReadError, match="Stock"):
        close()
    asyncio.run(replayed(pg_cluster))
    close()


def test_ways_to_end_a_transaction_give_the_lease_back(
    maker: sessionmaker[Session], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    with maker() as session:
        for writes in (False, True):
            for end in ("commit", "rollback", "close", "invalidate", "reset"):
                stock = session.get_one(Stock, 1)
                if writes:
                    stock.left += 1
                    session.flush()
                assert leased(manager) == ["MASTER" if writes else "REPLICA"]
                getattr(session, end)()
                assert leased(manager) == []
                asyncio.run(replayed(pg_cluster))
        with session.begin():
            session.get_one(Stock, 1)
        assert leased(manager) == []
        with session.begin(), session.begin_nested():
            session.get_one(Stock, 1)
            assert leased(manager) == ["MASTER"]


def test_what_fails_in_a_flush_gives_everything_back(
    maker: sessionmaker[Session], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), maker() as session:
            session.get_one(Stock, 1).left = 1
            session.flush()
            raise ZeroDivisionError
        assert leased(manager) == []
        with pytest.raises(Exception, match="null value"), maker.begin() as session:
            session.get_one(Stock, 1).left = 1
            session.add(Stock(id=8))
        assert leased(manager) == []
    assert left(pg_cluster) == "100"


def test_each_thread_has_its_own_way(
    maker: sessionmaker[Session], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    def add(number: int) -> None:
        for _ in range(10):
            with maker.begin(timeout=30) as session:
                stock = session.get_one(Stock, number, with_for_update=True)
                stock.left += 1

    threads = [Thread(target=add, args=(1 + n % 2,), name=uuid4().hex) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (left(pg_cluster), left(pg_cluster, 2)) == ("120", "120")
    assert leased(manager) == []


def test_what_cannot_work_is_refused(manager: PoolManager) -> None:
    class Decides(Session):
        def get_bind(self, *args: Any, **kwargs: Any) -> Any:
            return super().get_bind(*args, **kwargs)

    with pytest.raises(ConfigurationError, match="Decides has a get_bind of its own"):
        sessionmaker(manager, class_=Decides, route="auto")
    with pytest.raises(ConfigurationError, match="drop 'twophase'"):
        sessionmaker(manager, route="auto", twophase=True)
    with sessionmaker(manager, class_=Decides)() as session:
        assert type(session) is Decides


# Units of work


def test_a_run_begins_on_a_replica_and_goes_on_on_the_master(
    maker: sessionmaker[Session], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    seen: list[Any] = []

    def work(session: Session) -> str:
        stock = session.get_one(Stock, 1)
        seen.append(leased(manager))
        stock.left -= 10
        session.flush()
        seen.append(leased(manager))
        stock.left -= 1
        event.listen(session, "after_commit", lambda _: seen.append(leased(manager)))
        return "done"

    assert maker.run(work) == "done"
    assert seen == [["REPLICA"], ["MASTER"], []]
    assert left(pg_cluster) == "89"
    assert maker.run(lambda _: leased(manager), read_only=True) == ["REPLICA"]
    assert sessionmaker(manager).run(lambda _: leased(manager)) == ["MASTER"]


def test_a_run_does_work_again_on_the_master_that_was_computed_from_the_past(
    maker: sessionmaker[Session], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    seen = []

    def work(session: Session) -> None:
        stock = session.get_one(Stock, 1)
        stock.left -= 10
        seen.append((stock.left, leased(manager)))

    with past(pg_cluster, SEVENTY):
        maker.run(work)
        assert seen == [(90, ["REPLICA"]), (60, ["MASTER"])]
        assert left(pg_cluster) == "60"
    assert manager.metrics().runs.retries_conflict == 1


def test_a_key_that_is_violated_at_the_commit_is_a_conflict_after_a_read_on_a_replica(
    maker: sessionmaker[Session], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    def work(session: Session) -> str:
        if session.get(Shop, 1) is None:
            return "no shop"
        session.add(Stock(id=70, left=1, shop_id=1))
        return "stocked"

    def alter_key(how: str) -> None:
        key = "ALTER CONSTRAINT sync_routed_stock_shop_id_fkey"
        asyncio.run(pg_cluster.master.sql(f"ALTER TABLE sync_routed_stock {key} {how}"))

    alter_key("DEFERRABLE INITIALLY DEFERRED")
    try:
        asyncio.run(replayed(pg_cluster))
        with past(pg_cluster, "DELETE FROM sync_routed_stock; DELETE FROM sync_routed_shop"):
            assert maker.run(work) == "no shop"
            assert manager.metrics().runs.retries_conflict == 1
    finally:
        alter_key("NOT DEFERRABLE")


@pytest.mark.parametrize("route", ["auto", "explicit"])
def test_work_that_ends_its_session_itself_is_told_so(
    manager: PoolManager, pg_cluster: LocalCluster, route: Any
) -> None:
    maker = sessionmaker(manager, route=route)
    for end in (Session.commit, Session.rollback, Session.close):

        def work(session: Session, end: Any = end) -> None:
            session.get_one(Stock, 1).left = 1
            session.flush()
            end(session)

        with pytest.raises(HasqlError, match="its own"):
            maker.run(work)
        assert leased(manager) == []
    with pytest.raises(TypeError, match="takes a session"):
        maker.run(None)  # type: ignore[arg-type]
    assert left(pg_cluster) == "100"


def test_a_run_outlives_the_connection_that_it_reads_from(
    maker: sessionmaker[Session], pg_cluster: LocalCluster
) -> None:
    where = text("SELECT inet_server_port(), pg_backend_pid()")
    ports = []

    def work(session: Session) -> None:
        port, pid = session.execute(where, execution_options={"hasql_route": "replica"}).one()
        ports.append(port)
        if len(ports) == 1:
            server = next(each for each in pg_cluster.nodes if each.port == port)
            asyncio.run(server.sql(f"SELECT pg_terminate_backend({pid}, 5000)"))
        session.get_one(Stock, 1).left -= 1

    maker.run(work)
    assert len(ports) == 2
    assert ports[1] == pg_cluster.master.port
    assert left(pg_cluster) == "99"
