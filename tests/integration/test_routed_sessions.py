"""Sessions route themselves from a replica to the master, and lose nothing on the way."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    JSON,
    Boolean,
    ForeignKey,
    Integer,
    TypeDecorator,
    column,
    delete,
    event,
    func,
    insert,
    inspect,
    literal,
    outerjoin,
    select,
    text,
    update,
    values,
)
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InvalidRequestError,
    PendingRollbackError,
)
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncSession
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    Session,
    attributes,
    column_property,
    joinedload,
    load_only,
    mapped_column,
    query_expression,
    relationship,
    selectinload,
    with_expression,
    with_loader_criteria,
)
from sqlalchemy.orm.exc import DetachedInstanceError

from hasql import ConfigurationError, NotAvailableError
from hasql.asyncsqlalchemy import PoolManager, async_sessionmaker
from hasql.errors import HasqlError, PoolManagerClosedError, StaleReadError
from hasql.resilience import Category

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from hasql.testing import LocalCluster

pytestmark = [pytest.mark.usefixtures("nothing_unheard"), pytest.mark.loops_in_turn]


#: A session does the same over both, except for waits, cancellations and lost connections.
of_asyncpg = pytest.mark.parametrize("manager", ["asyncpg"], indirect=True)
of_psycopg = pytest.mark.parametrize("manager", ["psycopg"], indirect=True)


class Base(AsyncAttrs, DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "routed_owner"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    accounts: Mapped[list[Account]] = relationship(order_by="Account.id")


class Account(Base):
    __tablename__ = "routed_account"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(default="plain")
    v: Mapped[int] = mapped_column(default=0)
    note: Mapped[str] = mapped_column(default="", deferred=True)
    data: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(JSON), default=dict)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("routed_owner.id"))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "plain"}  # noqa: RUF012  # as SQLAlchemy has it


class Savings(Account):
    __tablename__ = "routed_savings"
    id: Mapped[int] = mapped_column(ForeignKey("routed_account.id"), primary_key=True)
    rate: Mapped[int] = mapped_column(default=0)
    __mapper_args__ = {"polymorphic_identity": "savings"}  # noqa: RUF012  # as SQLAlchemy has it


class Versioned(Base):
    __tablename__ = "routed_versioned"
    id: Mapped[int] = mapped_column(primary_key=True)
    v: Mapped[int]
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # as SQLAlchemy has it


OWNER, ACCOUNT, SAVINGS = (
    Base.metadata.tables[f"routed_{x}"] for x in ("owner", "account", "savings")
)


class LockedOwner(Base):
    __table__ = OWNER
    locked: Mapped[bool] = query_expression()


class Locking(TypeDecorator[bool]):
    """Takes a lock for each value that is read."""

    impl = Integer
    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        return func.pg_try_advisory_xact_lock(column)


class OuterJoined(Base):
    __table__ = outerjoin(ACCOUNT, SAVINGS)
    id = column_property(ACCOUNT.c.id, SAVINGS.c.id)
    rate_of = SAVINGS.c.id
    __mapper_args__ = {"primary_key": [ACCOUNT.c.id]}  # noqa: RUF012  # as SQLAlchemy has it


class FullyJoined(Base):
    __table__ = outerjoin(ACCOUNT, SAVINGS, full=True)
    id = column_property(ACCOUNT.c.id, SAVINGS.c.id)
    rate_of = SAVINGS.c.id
    __mapper_args__ = {"primary_key": [ACCOUNT.c.id]}  # noqa: RUF012  # as SQLAlchemy has it


class Grouped(Base):
    __table__ = (
        select(ACCOUNT.c.id, ACCOUNT.c.v, func.count(SAVINGS.c.id).label("of_savings"))
        .outerjoin_from(ACCOUNT, SAVINGS)
        .group_by(ACCOUNT.c.id)
        .subquery()
    )
    __mapper_args__ = {"primary_key": [__table__.c.id]}  # noqa: RUF012  # as SQLAlchemy has it


@pytest.fixture(params=["asyncpg", "psycopg"])
async def manager(
    pg_cluster: LocalCluster, request: pytest.FixtureRequest
) -> AsyncIterator[PoolManager]:
    dsn = pg_cluster.dsn.replace("postgresql://", f"postgresql+{request.param}://", 1)
    kwargs = {"pool_size": 1, "max_overflow": 0}
    async with PoolManager(dsn, refresh_delay=0.2, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 2)
        async with manager.acquire_master() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(text(f"TRUNCATE {', '.join(Base.metadata.tables)}"))
            await connection.execute(insert(Owner), [{"id": 1, "name": "ada"}])
            accounts = [{"id": i, "v": 100, "data": {"v": 100}, "owner_id": 1} for i in (1, 2, 3)]
            await connection.execute(insert(ACCOUNT), accounts)
            await connection.execute(insert(ACCOUNT), [{"id": 9, "v": 100, "kind": "savings"}])
            await connection.execute(insert(SAVINGS), [{"id": 9, "rate": 100}])
            await connection.execute(insert(Versioned), [{"id": 1, "v": 100, "version": 1}])
            await connection.commit()
        await replayed(pg_cluster)
        yield manager
        assert leased(manager) == []


async def replayed(cluster: LocalCluster) -> None:
    """Wait until the replicas have replayed all that the master has written."""
    lsn = await cluster.master.sql("SELECT pg_current_wal_lsn()")
    for replica in cluster.replicas:
        while await replica.sql(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'") != "t":
            await asyncio.sleep(0.01)


@asynccontextmanager
async def past(cluster: LocalCluster, sql: str) -> AsyncIterator[None]:
    """Change something on the master that the replicas do not show during the block."""
    for replica in cluster.replicas:
        await replica.sql("SELECT pg_wal_replay_pause()")
        while await replica.sql("SELECT pg_get_wal_replay_pause_state()") != "paused":
            await asyncio.sleep(0.01)
    try:
        await cluster.master.sql(sql)
        yield
    finally:
        for replica in cluster.replicas:
            await replica.sql("SELECT pg_wal_replay_resume()")


def leased(manager: PoolManager) -> list[str]:
    """Return the role of the host of each lease."""
    nodes = manager.metrics().nodes
    return [node.role.name for node in nodes for _ in range(node.in_flight)]


@pytest.fixture
def maker(manager: PoolManager) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(manager, route="auto")


@pytest.fixture
def lasting(manager: PoolManager) -> async_sessionmaker[AsyncSession]:
    """Sessions whose objects outlast a commit."""
    return async_sessionmaker(manager, route="auto", expire_on_commit=False)


SEVENTY = "UPDATE routed_account SET v = 70 WHERE id = 1"
SEVENTY_IN_ALL = """UPDATE routed_account SET v = 70, data = '{"v": 70}' WHERE id = 1"""
V = "SELECT v FROM routed_account WHERE id = 1"


async def test_it_reads_from_a_replica_until_it_writes(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager
) -> None:
    async with maker() as session:
        assert leased(manager) == []
        account = await session.get_one(Account, 1)
        assert leased(manager) == ["REPLICA"]
        account.v -= 10
        await session.flush()
        assert leased(manager) == ["MASTER"]
        assert await session.scalar(select(Account.v).where(Account.id == 1)) == 90
        assert leased(manager) == ["MASTER"]
        await session.commit()
        assert leased(manager) == []
        await session.scalars(select(Account))
        assert leased(manager) == ["REPLICA"]
        await session.rollback()
        assert leased(manager) == []


async def test_an_update_computed_from_the_past_is_not_lost(
    maker: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster
) -> None:
    async with past(pg_cluster, SEVENTY):
        with pytest.raises(StaleReadError, match=r"Account\(1\) .* different values for v:"):
            async with maker.begin() as session:
                account = await session.get_one(Account, 1)
                assert account.v == 100
                account.v -= 10
        assert await pg_cluster.master.sql(V) == "70"


async def v_of(session: AsyncSession, number: int = 1) -> Account:
    account = await session.get_one(Account, number)
    account.v -= 10
    return account


async def in_place(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    account.data["v"] -= 10


async def other_column(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    account.note = "rich" if account.v > 80 else "poor"


async def flagged(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    attributes.flag_modified(account, "v")
    account.v -= 10


async def twice(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    account.data["v"] -= 10
    account.data = {"v": account.data["v"] - 10}


async def deleted(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    if account.v == 100:
        await session.delete(account)


async def of_a_subclass(session: AsyncSession) -> None:
    savings = await session.get_one(Savings, 9)
    savings.v -= savings.rate


async def through_the_base(session: AsyncSession) -> None:
    savings = (await session.scalars(select(Account).where(Account.id == 9))).one()
    assert isinstance(savings, Savings)
    savings.v = await savings.awaitable_attrs.rate


async def versioned(session: AsyncSession) -> None:
    one = await session.get_one(Versioned, 1)
    one.v -= 10


async def taken_out_of_a_collection(session: AsyncSession) -> None:
    owner = await session.get_one(Owner, 1, options=[selectinload(Owner.accounts)])
    owner.accounts.remove(next(each for each in owner.accounts if each.v == 100))


async def put_into_a_new_one(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    session.add(Owner(id=2, name="rich", accounts=[account]))


async def loaded_along(session: AsyncSession) -> None:
    query = select(Owner).options(joinedload(Owner.accounts))
    owner = (await session.scalars(query)).unique().one()
    owner.accounts[0].v -= 10


async def fetched_in_advance(session: AsyncSession) -> None:
    query = select(Account).where(Account.id < 3).order_by(Account.id.desc())
    rows = aiter(await session.stream_scalars(query.execution_options(yield_per=1)))
    await anext(rows)
    await session.execute(text("SELECT 1"))  # moves it to the master
    await session.commit()
    account = await anext(rows)
    account.v -= 10


async def merged(session: AsyncSession) -> None:
    account = await session.merge(Account(id=1, note="merged"))
    account.v -= 10


async def refreshed(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    session.expire(account)
    await session.refresh(account)
    account.v -= 10


async def loaded_later(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1, options=[load_only(Account.id)])
    account.v = await account.awaitable_attrs.v - 10


async def overwritten(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    query = select(Account).execution_options(populate_existing=True)
    await session.scalars(query)
    account.v -= 10


async def of_an_earlier_transaction(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    await session.commit()
    account.v -= 10


async def changed_by_a_listener(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    await session.commit()

    def change(*_: object) -> None:
        account.v -= 10

    event.listen(session.sync_session, "before_flush", change, once=True)
    session.add(Owner(id=70, name="new"))


async def deleted_by_a_listener(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    await session.commit()

    def remove(sync: Session, *_: object) -> None:
        sync.delete(account)

    event.listen(session.sync_session, "before_flush", remove, once=True)
    session.add(Owner(id=70, name="new"))


async def written_past_a_flush(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    with session.no_autoflush:
        account.v -= 10
        await session.execute(update(Account).where(Account.id == 3).values(v=1))


async def beside_a_flush(session: AsyncSession) -> None:
    account = await v_of(session)
    await session.run_sync(lambda sync: sync.bulk_save_objects([account]))


async def in_a_savepoint(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    async with session.begin_nested():
        account.v -= 10


async def attached_again(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    session.expunge(account)
    await session.execute(update(Account).where(Account.id == 3).values(note="moved"))
    session.add(account)
    account.v -= 10


CONFLICTS = {
    **dict.fromkeys(
        [
            v_of, in_place, other_column, flagged, twice, deleted, taken_out_of_a_collection,
            put_into_a_new_one, loaded_along, fetched_in_advance, merged, refreshed,
            loaded_later, overwritten,
            of_an_earlier_transaction, changed_by_a_listener, deleted_by_a_listener,
            written_past_a_flush, beside_a_flush, in_a_savepoint, attached_again,
        ],
        SEVENTY_IN_ALL,
    ),
    of_a_subclass: "UPDATE routed_savings SET rate = 1",
    through_the_base: "UPDATE routed_account SET v = 1 WHERE id = 9",
    versioned: "UPDATE routed_versioned SET v = 70, version = 2",
}  # fmt: skip


@of_asyncpg
@pytest.mark.parametrize("work", CONFLICTS, ids=lambda work: work.__name__)
async def test_what_was_computed_from_the_past_is_a_conflict(
    lasting: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster, work: Any
) -> None:
    async with past(pg_cluster, CONFLICTS[work]):
        with pytest.raises(StaleReadError):
            async with lasting() as session:
                await work(session)
                await session.commit()
    await replayed(pg_cluster)
    async with lasting() as session:  # without a difference there is no conflict
        await work(session)
        await session.commit()


async def test_a_row_that_is_gone_is_a_conflict(
    maker: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster
) -> None:
    async with past(pg_cluster, "DELETE FROM routed_account WHERE id = 1"):
        with pytest.raises(StaleReadError, match=r"Account\(1\) .* no such row"):
            async with maker.begin() as session:
                await v_of(session)


async def computed_by_the_master(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1, options=[load_only(Account.v)])
    account.v = Account.v - 10


async def set_unseen(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1, options=[load_only(Account.kind)])
    account.v = 60


async def set_unseen_after_it_expired(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    await session.rollback()
    account.v = 60


async def locked(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    await session.refresh(account, with_for_update=True)
    account.v -= 10


async def locked_at_once(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1, with_for_update=True)
    account.v -= 10


async def read_after_a_write(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1)
    await session.execute(update(Account).where(Account.id == 3).values(note="moved"))
    account.v = await account.awaitable_attrs.v - 10


async def read_in_a_transaction_after_a_commit(session: AsyncSession) -> None:
    async with session.begin():
        session.add(Account(id=7))
        await session.flush()
        account = await session.get_one(Account, 1)
    account.v -= 10


async def clean_and_deferred(session: AsyncSession) -> None:
    account = await session.get_one(Account, 1, options=[load_only(Account.note)])
    account.note = "what is not loaded may differ"
    await session.flush()
    account = await session.get_one(Account, 1)
    account.v = await account.awaitable_attrs.v - 10


@of_psycopg
@pytest.mark.parametrize(
    "work",
    [
        computed_by_the_master,
        set_unseen,
        set_unseen_after_it_expired,
        locked,
        locked_at_once,
        read_after_a_write,
        read_in_a_transaction_after_a_commit,
        clean_and_deferred,
    ],
    ids=lambda work: work.__name__,
)
async def test_what_the_master_has_shown_or_nobody_is_no_conflict(
    lasting: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster, work: Any
) -> None:
    async with past(pg_cluster, SEVENTY_IN_ALL):
        async with lasting() as session:
            await work(session)
            await session.commit()
        assert await pg_cluster.master.sql(V) == "60"


@of_psycopg
async def test_what_is_clean_is_read_anew_on_the_master(
    lasting: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster
) -> None:
    changed = "UPDATE routed_account SET v = 70, owner_id = nullif(owner_id, id - 1)"
    async with past(pg_cluster, changed), lasting() as session:
        owner = await session.get_one(Owner, 1, options=[selectinload(Owner.accounts)])
        account, other, _ = owner.accounts
        assert account.v == 100
        owner.name = "grace"
        await session.flush()
        # Neither written values nor those that are certainly the same are loaded again.
        assert (owner.name, account.id, other.id) == ("grace", 1, 2)
        assert await account.awaitable_attrs.v == 70
        assert [each.id for each in await owner.awaitable_attrs.accounts] == [1, 3]
        await session.rollback()
    async with past(pg_cluster, "UPDATE routed_account SET v = 30"), lasting() as session:
        accounts = (await session.scalars(select(Account).order_by(Account.id))).all()
        assert accounts[1].v != 30
        session.add(Account(id=20, owner_id=accounts[0].id))
        await session.flush()
        assert await accounts[1].awaitable_attrs.v == 30


@of_asyncpg
async def test_nothing_that_was_changed_is_lost_when_the_rest_expires(
    lasting: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster
) -> None:
    async with lasting() as session:
        owner = await session.get_one(Owner, 1, options=[selectinload(Owner.accounts)])
        one, two, three = owner.accounts
        with session.no_autoflush:
            one.v, two.data["v"] = 1, 2
            owner.accounts.remove(three)
            owner.accounts.append(Account(id=21, v=21))
            await session.execute(text("SELECT 1"))  # moves it to the master
        await session.commit()
        await replayed(pg_cluster)
        session.expire_all()
        accounts = (await session.scalars(select(Account).order_by(Account.id))).all()
        assert [each.v for each in accounts] == [1, 100, 100, 100, 21]
    found = "SELECT data->>'v' FROM routed_account WHERE id = 2"
    assert await pg_cluster.master.sql(found) == "2"
    found = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM routed_account WHERE owner_id = 1"
    assert await pg_cluster.master.sql(found) == "1 2 21"


@of_psycopg
async def test_a_conflict_stays_one_until_the_rollback(
    maker: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster, manager: PoolManager
) -> None:
    async with past(pg_cluster, SEVENTY), maker() as session:
        account = await v_of(session)
        for _ in range(2):
            with pytest.raises(StaleReadError):
                await session.flush()
        assert leased(manager) == ["MASTER"]
        with pytest.raises(StaleReadError):
            await session.commit()
        await session.rollback()
        assert leased(manager) == []
        account = await session.get_one(Account, 1, with_for_update=True, populate_existing=True)
        account.v -= 10
        await session.commit()
        assert await pg_cluster.master.sql(V) == "60"


@of_asyncpg
async def test_what_conflicts_keeps_its_lock_until_the_end(
    maker: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster
) -> None:
    async with maker() as session:
        await v_of(session)
        await session.flush()
        with pytest.raises(Exception, match="could not obtain lock"):
            await pg_cluster.master.sql(f"{V} FOR UPDATE NOWAIT")
        await session.commit()
    assert await pg_cluster.master.sql(V) == "90"


IN_ACCOUNT = (
    "UPDATE routed_account SET v = v + 1 WHERE id = 9",
    "SELECT v FROM routed_account WHERE id = 9 FOR UPDATE NOWAIT",
)
IN_SAVINGS = (
    "UPDATE routed_savings SET rate = rate + 1 WHERE id = 9",
    "SELECT rate FROM routed_savings WHERE id = 9 FOR UPDATE NOWAIT",
)
MAPPED = {
    OuterJoined: [IN_ACCOUNT, IN_SAVINGS],
    FullyJoined: [IN_ACCOUNT, IN_SAVINGS],
    Grouped: [IN_ACCOUNT],
}
"""For each class, the tables that it maps: how to change a row there, and how to try to lock it."""


@of_psycopg
@pytest.mark.parametrize("class_", MAPPED)
async def test_what_is_mapped_to_more_than_tables_is_compared_and_locked(
    lasting: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster, class_: Any
) -> None:
    async def change(session: AsyncSession) -> None:
        (await session.scalars(select(class_).where(class_.id == 9))).one().v -= 10
        await session.flush()

    for elsewhere, _ in MAPPED[class_]:
        async with past(pg_cluster, elsewhere), lasting() as session:
            with pytest.raises(StaleReadError):
                await change(session)
    await replayed(pg_cluster)
    async with lasting() as session:
        await change(session)
        for _, lock in MAPPED[class_]:
            with pytest.raises(Exception, match="could not obtain lock"):
                await pg_cluster.master.sql(lock)
        await session.commit()
    assert await pg_cluster.master.sql("SELECT v FROM routed_account WHERE id = 9") == "91"


MOVES: dict[str, Any] = {
    "text": lambda s: s.execute(text("SELECT 1")),
    "update": lambda s: s.execute(update(Account).where(Account.id == 3).values(v=2)),
    "delete": lambda s: s.execute(delete(Account).where(Account.id == 3)),
    "insert": lambda s: s.execute(insert(Owner), [{"id": 5, "name": "x"}, {"id": 6, "name": "y"}]),
    "core": lambda s: s.execute(insert(OWNER).values(id=5, name="x")),
    "locking": lambda s: s.execute(select(Account).with_for_update()),
    "locking suffix": lambda s: s.execute(select(Account.id).suffix_with("FOR UPDATE")),
    "locking hint": lambda s: s.execute(select(Account.id).with_statement_hint("FOR UPDATE")),
    "function": lambda s: s.execute(select(func.pg_advisory_xact_lock(1))),
    "connection": lambda s: s.connection(),
    "savepoint": lambda s: (s.begin_nested(), s.get(Account, 1)),
    "bulk": lambda s: s.run_sync(lambda sync: sync.bulk_insert_mappings(Owner, [])),
}
"""Operations that a session does on the master."""


@of_psycopg
@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES)
async def test_whatever_may_not_be_a_read_is_the_masters(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager, moves: Any
) -> None:
    for reads_first in (False, True):
        async with maker() as session:
            if reads_first:
                await session.scalar(select(Account.id))
                assert leased(manager) == ["REPLICA"]
            done = moves(session)
            for each in done if isinstance(done, tuple) else [done]:
                await each
            assert leased(manager) == ["MASTER"]
            await session.scalar(select(Account.id))
            assert leased(manager) == ["MASTER"]


LOCK = func.pg_try_advisory_xact_lock(OWNER.c.id)
LOCKS: dict[str, Any] = {
    "column": select(LOCK),
    "rows": select(
        values(column("a", Boolean), name="v").data([(func.pg_try_advisory_xact_lock(1),)])
    ),
    "expression": select(LockedOwner).options(with_expression(LockedOwner.locked, LOCK)),
    "criteria": select(literal(value=True))
    .select_from(Owner)
    .options(with_loader_criteria(Owner, LOCK)),
    "criteria of a function": select(literal(value=True))
    .select_from(Owner)
    .options(with_loader_criteria(Owner, lambda cls: func.pg_try_advisory_xact_lock(cls.id))),
    "type": select(literal(1, Locking)),
}
"""Selects that tell whether a lock was taken: by the value of their only row, or by having none."""


@of_psycopg
@pytest.mark.parametrize("statement", LOCKS.values(), ids=LOCKS)
async def test_a_lock_within_a_select_is_the_masters(
    maker: async_sessionmaker[AsyncSession],
    manager: PoolManager,
    pg_cluster: LocalCluster,
    statement: Any,
) -> None:
    async with PoolManager(pg_cluster.master.dsn) as others:
        await others.ready(1, 0)
        async with others.acquire_master() as holder, maker() as session:
            assert await holder.scalar(select(LOCK)) is True
            found = await session.scalar(statement)
            assert not getattr(found, "locked", found)
            assert leased(manager) == ["MASTER"]


def replaces(statement: Any) -> Callable[[ORMExecuteState], None]:
    def on_execute(state: ORMExecuteState) -> None:
        state.statement = statement

    return on_execute


def executes(statement: Any) -> Callable[[ORMExecuteState], Any]:
    return lambda state: state.invoke_statement(statement)


RECOVERS = select(func.pg_is_in_recovery())
HOOKS: dict[str, Any] = {
    "replaced": (select(literal(1)), replaces(RECOVERS)),
    "executed": (select(literal(1)), executes(RECOVERS)),
    "executed for an entity": (select(Owner), executes(RECOVERS)),
}
"""The statement of the application, and the listener that makes another one of it."""


@of_psycopg
@pytest.mark.parametrize(("statement", "hook"), HOOKS.values(), ids=HOOKS)
async def test_what_is_executed_after_all_decides(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager, statement: Any, hook: Any
) -> None:
    async with maker() as session:
        event.listen(session.sync_session, "do_orm_execute", hook)
        row = (await session.execute(statement)).one()
        assert row[-1] is False
        assert leased(manager) == ["MASTER"]


@of_psycopg
async def test_a_statement_says_itself_where_it_is_to_run(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager
) -> None:
    recovers = text("SELECT pg_is_in_recovery()")
    async with maker() as session:
        here = recovers.execution_options(hasql_route="replica")
        assert await session.scalar(here) is True
        assert await session.scalar(recovers, execution_options={"hasql_route": "replica"}) is True
        query = select(Account).execution_options(hasql_route="master")
        await session.scalars(query)
        assert leased(manager) == ["MASTER"]
        assert await session.scalar(here) is False  # the transaction is on the master by now
        await session.rollback()
        await session.get(Account, 1, execution_options={"hasql_route": "master"})
        assert leased(manager) == ["MASTER"]
        with pytest.raises(ConfigurationError, match="hasql_route must be"):
            await session.scalar(recovers, execution_options={"hasql_route": "standby"})
    named = async_sessionmaker(manager, route="auto", read_functions=["pg_is_in_recovery"])
    async with named() as session:
        assert await session.scalar(select(func.pg_is_in_recovery())) is True
    async with maker() as session:
        assert await session.scalar(select(func.pg_is_in_recovery())) is False


@of_asyncpg
async def test_read_only_decides_where_it_is_given(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager
) -> None:
    for begin in (maker, maker.begin):
        async with begin(read_only=False) as session:
            await session.scalar(select(Account.id))
            assert leased(manager) == ["MASTER"]
        async with begin(True) as session:
            assert await session.scalar(text("SELECT pg_is_in_recovery()"))
            assert leased(manager) == ["REPLICA"]
        async with begin() as session:
            assert leased(manager) == []
    with pytest.raises(DBAPIError, match="read-only"):
        async with maker.begin(read_only=True) as session:
            session.add(Owner(id=7, name="never"))


@of_asyncpg
@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT"])
async def test_other_isolation_levels_start_on_the_master(
    pg_cluster: LocalCluster, manager: PoolManager, level: str
) -> None:
    async with async_sessionmaker(manager, route="auto")() as session:
        _ = await session.connection(execution_options={"isolation_level": level})
        await session.scalar(select(1))
        assert leased(manager) == ["MASTER"]
    kwargs: dict[str, Any]
    for kwargs in ({"isolation_level": level}, {"execution_options": {"isolation_level": level}}):
        async with PoolManager(pg_cluster.dsn, pool_factory_kwargs=kwargs) as other:
            await other.ready(1, 2)
            async with async_sessionmaker(other, route="auto")() as session:
                await session.scalar(select(1))
                assert leased(other) == ["MASTER"]
    if level == "REPEATABLE READ":  # AUTOCOMMIT is no default, and no standby takes SERIALIZABLE
        settings = {"server_settings": {"default_transaction_isolation": level.lower()}}
        async with PoolManager(
            pg_cluster.dsn, pool_factory_kwargs={"connect_args": settings}
        ) as other:
            await other.ready(1, 2)
            async with async_sessionmaker(other, route="auto")() as session:
                await session.scalar(select(1))
                shown = text("SHOW transaction_isolation").execution_options(hasql_route="replica")
                # SQLAlchemy 2.0 makes asyncpg begin transactions with a level of its own.
                is_routed = await session.scalar(shown) == "read committed"
                assert leased(other) == ["REPLICA" if is_routed else "MASTER"]


async def test_where_there_is_no_replica_it_reads_from_the_master(
    pg_cluster: LocalCluster,
) -> None:
    async with PoolManager(pg_cluster.master.dsn) as manager:
        await manager.ready(1, 0)
        maker = async_sessionmaker(manager, route="auto")
        async with maker() as session:
            await session.scalar(select(1))
            assert leased(manager) == ["MASTER"]
        with pytest.raises(NotAvailableError):
            async with maker(fallback_master=False, timeout=0.05) as session:
                await session.scalar(select(1))
        assert leased(manager) == []


@of_psycopg
async def test_a_read_that_was_the_masters_all_the_same_moves_like_any_other(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    for _ in range(2):
        async with maker(master_as_replica_weight=1.0) as session:
            account = await v_of(session)
            assert leased(manager) == ["MASTER"]
            await session.flush()
            async with session.begin_nested():
                account.note = "moved"
            assert leased(manager) == ["MASTER"]
            await session.commit()
            assert leased(manager) == []
            await session.refresh(account)
            await session.rollback()
    assert await pg_cluster.master.sql(V) == "80"


async def test_a_session_has_one_lease_at_a_time(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager
) -> None:
    most = 0

    def look(*_: object) -> None:
        nonlocal most
        most = max(most, len(leased(manager)))

    async with maker() as session:
        event.listen(session.sync_session, "after_begin", look)
        for engine in manager.pools:
            event.listen(engine.sync_engine, "checkout", look)
            event.listen(engine.sync_engine, "checkin", look)
        await v_of(session)
        async with session.begin_nested():
            await v_of(session, 2)
        await session.commit()
        assert most == 1


@of_asyncpg
async def test_savepoints_are_the_masters(
    maker: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster
) -> None:
    async with maker() as session:
        account = await session.get_one(Account, 1)
        with pytest.raises(KeyError):
            async with session.begin_nested():
                account.v = 1
                raise KeyError
        async with session.begin_nested():
            (await session.get_one(Account, 2)).v = 2
        await session.commit()
    found = "SELECT string_agg(v::text, ' ' ORDER BY id) FROM routed_account WHERE id < 3"
    assert await pg_cluster.master.sql(found) == "100 2"


async def test_ways_to_end_a_transaction_give_the_lease_back(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    async with maker() as session:
        for writes in (False, True):
            for end in ("commit", "rollback", "close", "invalidate", "reset"):
                await session.get_one(Account, 1)
                if writes:
                    await v_of(session, 2)
                    await session.flush()
                assert leased(manager) == ["MASTER" if writes else "REPLICA"]
                await getattr(session, end)()
                assert leased(manager) == []
                await replayed(pg_cluster)
        async with session.begin():
            await session.get_one(Account, 1)
        assert leased(manager) == []
        await session.get_one(Account, 1)
        await session.close()
    with pytest.raises(InvalidRequestError, match="block of this session has ended"):
        await session.scalar(select(1))
    assert leased(manager) == []


async def test_a_connection_that_is_closed_within_a_transaction_is_not_replaced(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager
) -> None:
    async with maker() as session:
        await (await session.connection()).close()
        for _ in range(2):
            with pytest.raises(InvalidRequestError, match="closed"):
                await session.scalar(select(Account.id))
        await session.close()
        assert leased(manager) == []
        assert await session.scalar(select(Account.v).where(Account.id == 1)) == 100


@pytest.mark.parametrize("writes", [False, True])
async def test_a_lost_connection_ends_the_transaction_and_not_the_session(
    maker: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster, writes: bool
) -> None:
    pid = text("SELECT pg_backend_pid()").execution_options(hasql_route="replica")
    port = text("SELECT inet_server_port()").execution_options(hasql_route="replica")
    async with maker(timeout=10) as session:
        if writes:
            session.add(Owner(id=8, name="lost"))
            await session.flush()
        lost, where = await session.scalar(pid), await session.scalar(port)
        server = next(each for each in pg_cluster.nodes if each.port == where)
        await server.sql(f"SELECT pg_terminate_backend({lost}, 5000)")
        for _ in range(2):
            with pytest.raises((DBAPIError, PendingRollbackError)):
                await session.scalar(select(Account.id))
        await session.rollback()
        await v_of(session)
        await session.commit()
    assert await pg_cluster.master.sql("SELECT count(*) FROM routed_owner WHERE id = 8") == "0"
    assert await pg_cluster.master.sql(V) == "90"


async def test_a_master_that_is_not_to_be_had_is_an_error_and_no_way_back(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager
) -> None:
    async with manager.acquire_master(), maker(timeout=0.5) as session:
        await session.scalar(select(Account.id))
        for _ in range(2):
            with pytest.raises(NotAvailableError):
                await session.execute(text("SELECT 1"))
        with pytest.raises(NotAvailableError):  # its transaction belongs to the master now
            await session.scalar(select(Account.id))
        assert leased(manager) == ["MASTER"]  # the lease beside the session
        await session.rollback()
        await session.scalar(select(Account.id))
        assert sorted(leased(manager)) == ["MASTER", "REPLICA"]
    assert leased(manager) == []


async def test_whoever_is_cancelled_gives_everything_back(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager
) -> None:
    async def work() -> None:
        async with maker.begin(timeout=10) as session:
            await v_of(session)
            await session.flush()
            await v_of(session, 2)

    steps, times = 0, 0
    while True:  # cancel it at many of its pauses
        task = asyncio.ensure_future(work())
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        steps, times = steps + 1 + steps // 10, times + 1
        async with asyncio.timeout(1):
            while leased(manager):  # another task may still be giving it back
                await asyncio.sleep(0)
    await task
    assert times > 10
    async with maker(timeout=5) as session:
        assert await session.scalar(select(1)) == 1


async def test_while_the_manager_drains_it_goes_on_where_it_is_but_does_not_move(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    async with maker() as reads, maker() as writes:
        account = await reads.get_one(Account, 1)
        await writes.execute(update(Account).where(Account.id == 2).values(v=20))
        draining = asyncio.create_task(manager.drain())
        with suppress(PoolManagerClosedError):
            while True:
                async with manager.acquire_replica():  # one of the two replicas is free
                    await asyncio.sleep(0)
        await writes.commit()
        assert await reads.scalar(select(Account.v).where(Account.id == 3)) == 100
        account.v -= 10
        with pytest.raises(PoolManagerClosedError):
            await reads.commit()
        await reads.rollback()
    assert (await draining).broken == ()
    assert await pg_cluster.master.sql(V) == "100"
    assert await pg_cluster.master.sql(V.replace("= 1", "= 2")) == "20"


@of_psycopg
async def test_what_is_fixed_is_refused(manager: PoolManager) -> None:
    class Decides(Session):
        def get_bind(self, *args: Any, **kwargs: Any) -> Any:
            return super().get_bind(*args, **kwargs)

    given: dict[str, Any]
    for given, why in (
        ({"route": "automatic"}, 'route must be "explicit" or "auto"'),
        ({"route": "auto", "twophase": True}, "drop 'twophase'"),
        ({"route": "auto", "bind": None}, "drop 'bind'"),
        ({"route": "auto", "sync_session_class": Decides}, "Decides has a get_bind of its own"),
        ({"read_functions": ["lower"]}, 'read_functions need route="auto"'),
        ({"route": "auto", "read_functions": [""]}, "a function's name is empty"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            async_sessionmaker(manager, **given)
    for functions in ("lower", [1]):
        with pytest.raises(TypeError, match="read_functions must be"):
            async_sessionmaker(manager, route="auto", read_functions=functions)  # type: ignore[call-overload]
    maker = async_sessionmaker(manager, route="auto")
    with pytest.raises(ConfigurationError, match="drop 'twophase'"):
        maker(twophase=True)


@of_asyncpg
async def test_the_class_and_the_options_are_the_users(manager: PoolManager) -> None:
    class Beneath(Session):
        pass

    class Own(AsyncSession):
        sync_session_class = Beneath

    seen = []
    event.listen(Beneath, "do_orm_execute", lambda state: seen.append(state.is_select))
    maker = async_sessionmaker(manager, class_=Own, route="auto", info={"of": "all"})
    async with maker(autoflush=False) as session:
        assert type(session) is Own
        assert isinstance(session.sync_session, Beneath)
        assert type(session.sync_session).__name__ == "Beneath"
        assert (session.info, session.sync_session.autoflush) == ({"of": "all"}, False)
        await session.scalar(select(1))
        assert seen == [True]
    async with maker(read_only=False) as session:
        assert type(session.sync_session) is Beneath


# Units of work


async def test_a_run_begins_on_a_replica_and_goes_on_on_the_master(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    seen: list[Any] = []

    async def work(session: AsyncSession) -> str:
        account = await session.get_one(Account, 1)
        seen.append(leased(manager))
        account.v -= 10
        await session.flush()
        seen.append(leased(manager))
        async with session.begin_nested():
            account.note = "changed"
        account.data["v"] = 5  # `run` flushes it
        for name in ("before_commit", "after_commit"):
            told = partial(seen.append, name)
            event.listen(session.sync_session, name, lambda _, told=told: told())
        return "done"

    assert await maker.run(work) == "done"
    assert seen == [["REPLICA"], ["MASTER"], "before_commit", "after_commit"]
    found = "SELECT v || note || data::text FROM routed_account WHERE id = 1"
    assert await pg_cluster.master.sql(found) == '90changed{"v": 5}'
    assert leased(manager) == []
    assert manager.metrics().runs.retries_conflict == 0


async def test_a_run_does_work_again_on_the_master_that_was_computed_from_the_past(
    lasting: async_sessionmaker[AsyncSession], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    seen = []

    async def work(session: AsyncSession) -> Account:
        account = await v_of(session)
        seen.append((account.v, leased(manager)))
        return account

    async with past(pg_cluster, SEVENTY):
        account = await lasting.run(work)
        assert account.v == 60
        assert seen == [(90, ["REPLICA"]), (60, ["MASTER"])]
        assert await pg_cluster.master.sql(V) == "60"
    assert leased(manager) == []
    assert manager.metrics().runs.retries_conflict == 1
    error = StaleReadError("")
    assert (manager.category(error), manager.retriable(error)) == (Category.CONFLICT, True)


@of_asyncpg
async def test_a_row_that_a_replica_does_not_show_yet_is_no_violation_of_its_key(
    maker: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster
) -> None:
    times = 0

    async def find_or_make(session: AsyncSession) -> None:
        nonlocal times
        times += 1
        if await session.get(Owner, 70) is None:
            session.add(Owner(id=70, name="new"))

    async def clash(session: AsyncSession) -> None:
        nonlocal times
        times += 1
        await session.get(Account, 1)
        session.add(Owner(id=70, name="there is one"))

    async with past(pg_cluster, "INSERT INTO routed_owner VALUES (70, 'there is one')"):
        await maker.run(find_or_make)
        assert times == 2
        with pytest.raises(IntegrityError):  # on the master, too
            await maker.run(clash)
        assert times == 4


@pytest.mark.parametrize("found", ["at_once", "at_the_commit"])
async def test_a_row_that_a_replica_still_shows_is_no_violation_of_a_key_that_leads_to_it(
    maker: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster, found: str
) -> None:
    times = 0

    async def open_account(session: AsyncSession) -> str:
        nonlocal times
        times += 1
        if await session.get(Owner, 70) is None:
            return "no owner"
        session.add(Account(id=70, owner_id=70))
        return "open"

    async def clash(session: AsyncSession) -> None:
        await session.get(Owner, 1)
        session.add(Account(id=71, owner_id=71))

    await alter_key(pg_cluster, "DEFERRABLE INITIALLY DEFERRED", found == "at_the_commit")
    try:
        await pg_cluster.master.sql("INSERT INTO routed_owner VALUES (70, 'leaves')")
        await replayed(pg_cluster)
        async with past(pg_cluster, "DELETE FROM routed_owner WHERE id = 70"):
            assert await maker.run(open_account) == "no owner"
            assert times == 2
            with pytest.raises(IntegrityError):  # on the master, too
                await maker.run(clash)
    finally:
        await alter_key(pg_cluster, "NOT DEFERRABLE", found == "at_the_commit")


async def alter_key(cluster: LocalCluster, how: str, really: bool) -> None:
    """If `really`, set when the foreign key of an account's owner is checked."""
    if really:
        key = "ALTER CONSTRAINT routed_account_owner_id_fkey"
        await cluster.master.sql(f"ALTER TABLE routed_account {key} {how}")


@of_psycopg
async def test_a_run_that_only_reads_stays_where_it_is(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager
) -> None:
    async def read(session: AsyncSession) -> tuple[int, list[str]]:
        account = await session.get_one(Account, 1)
        return account.v, leased(manager)

    async def write(session: AsyncSession) -> None:
        session.add(Owner(id=9, name="never"))

    assert await maker.run(read) == (100, ["REPLICA"])
    assert await maker.run(read, read_only=True) == (100, ["REPLICA"])
    assert await maker.run(read, read_only=False) == (100, ["MASTER"])
    assert await maker.run(read, isolation="serializable") == (100, ["MASTER"])
    explicit = async_sessionmaker(manager)
    assert await explicit.run(read) == (100, ["MASTER"])
    assert await explicit.run(read, read_only=True) == (100, ["REPLICA"])
    with pytest.raises(DBAPIError, match="read-only"):
        await maker.run(write, read_only=True)
    assert leased(manager) == []


async def commits(session: AsyncSession) -> None:
    await session.execute(text(SEVENTY))
    await session.commit()


async def rolls_back(session: AsyncSession) -> None:
    await session.execute(text(SEVENTY))
    await session.rollback()


async def begins_by_itself(session: AsyncSession) -> None:
    async with session.begin():
        await session.execute(text(SEVENTY))


async def closes(session: AsyncSession) -> None:
    await session.execute(text(SEVENTY))
    await session.close()


@of_asyncpg
@pytest.mark.parametrize("work", [commits, rolls_back, begins_by_itself, closes])
@pytest.mark.parametrize("route", ["auto", "explicit"])
async def test_work_that_ends_its_session_itself_is_told_so(
    manager: PoolManager, pg_cluster: LocalCluster, work: Any, route: Any
) -> None:
    with pytest.raises(HasqlError, match="its own"):
        await async_sessionmaker(manager, route=route).run(work)
    assert await pg_cluster.master.sql(V) == "100"
    assert leased(manager) == []


@of_psycopg
async def test_after_a_run_its_objects_are_as_after_a_commit(
    maker: async_sessionmaker[AsyncSession], lasting: async_sessionmaker[AsyncSession]
) -> None:
    numbers = count(100)

    async def work(session: AsyncSession) -> Owner:
        session.add(owner := Owner(id=next(numbers), name="new"))
        return owner

    owner = await lasting.run(work)
    assert (owner.name, inspect(owner).detached) == ("new", True)
    owner = await maker.run(work)
    with pytest.raises(DetachedInstanceError):
        _ = owner.name


@of_psycopg
@pytest.mark.parametrize("route", ["auto", "explicit"])
async def test_what_work_raises_ends_its_run(
    manager: PoolManager, pg_cluster: LocalCluster, route: Any
) -> None:
    maker = async_sessionmaker(manager, route=route)

    async def fail(session: AsyncSession) -> None:
        await v_of(session)
        await session.flush()
        raise KeyError

    async def duplicate(session: AsyncSession) -> None:
        session.add(Owner(id=1, name="there is one"))

    async def within(_: AsyncSession) -> None:
        await maker.run(fail)

    async def swallow(session: AsyncSession) -> None:
        await v_of(session)
        with suppress(DBAPIError):
            await session.execute(text("SELECT 1/0"))

    for work, error in (
        (fail, KeyError),
        (duplicate, IntegrityError),
        (within, HasqlError),
        (swallow, Exception),
    ):
        with pytest.raises(error):
            await maker.run(work)
        assert leased(manager) == []
    with pytest.raises(TypeError, match="takes a session"):
        await maker.run(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="drop 'twophase'"):
        await async_sessionmaker(manager, twophase=True).run(fail)
    assert await pg_cluster.master.sql(V) == "100"


@pytest.mark.parametrize("writes", [False, True])
async def test_a_run_outlives_the_connections_that_it_has(
    maker: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster, writes: bool
) -> None:
    pid = text("SELECT pg_backend_pid()").execution_options(hasql_route="replica")
    port = text("SELECT inet_server_port()").execution_options(hasql_route="replica")
    times = 0

    async def work(session: AsyncSession) -> int:
        nonlocal times
        times += 1
        if writes:
            await v_of(session)
            await session.flush()
        lost, where = await session.scalar(pid), await session.scalar(port)
        if times == 1:
            server = next(each for each in pg_cluster.nodes if each.port == where)
            await server.sql(f"SELECT pg_terminate_backend({lost}, 5000)")
        return (await v_of(session, 2)).v

    assert await maker.run(work) == 90
    assert times == 2
    assert await pg_cluster.master.sql(V) == ("90" if writes else "100")


async def test_a_cancelled_run_gives_everything_back(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager
) -> None:
    steps, done = 0, 0
    while not done:
        task = asyncio.ensure_future(maker.run(v_of))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
            done += 1
        steps += 1 + steps // 10
        async with asyncio.timeout(1):
            while leased(manager):
                await asyncio.sleep(0)
    assert (await maker.run(v_of)) is not None


async def test_where_there_is_no_replica_a_run_is_the_masters(pg_cluster: LocalCluster) -> None:
    async with PoolManager(pg_cluster.master.dsn) as manager:
        await manager.ready(1, 0)

        async def work(session: AsyncSession) -> list[str]:
            await session.scalar(select(1))
            return leased(manager)

        assert await async_sessionmaker(manager, route="auto").run(work) == ["MASTER"]
