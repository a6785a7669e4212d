"""Sessions of the ORM on leases, over both drivers of the SQLAlchemy adapter."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import ForeignKey, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

from hasql import ConfigurationError, NotAvailableError
from hasql.asyncsqlalchemy import PoolManager, async_sessionmaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hasql.testing import LocalCluster

pytestmark = [pytest.mark.usefixtures("nothing_unheard"), pytest.mark.loops_in_turn]


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list[Book]] = relationship(back_populates="author")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    # Checked only at the end of a transaction.
    author_id: Mapped[int] = mapped_column(
        ForeignKey("author.id", deferrable=True, initially="DEFERRED")
    )
    author: Mapped[Author] = relationship(back_populates="books")


@pytest.fixture(params=["asyncpg", "psycopg"])
async def manager(
    pg_cluster: LocalCluster, request: pytest.FixtureRequest
) -> AsyncIterator[PoolManager]:
    dsn = pg_cluster.dsn.replace("postgresql://", f"postgresql+{request.param}://", 1)
    kwargs = {"pool_size": 1, "max_overflow": 0}
    async with PoolManager(dsn, refresh_delay=0.2, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 2)
        async with manager.acquire_master() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)
            await connection.commit()
        yield manager
        assert not any(node.in_flight for node in manager.metrics().nodes)


@pytest.fixture
def maker(manager: PoolManager) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(manager, expire_on_commit=False)


async def names(maker: async_sessionmaker[AsyncSession]) -> list[str]:
    async with maker() as session:
        return list(await session.scalars(select(Author.name).order_by(Author.id)))


async def test_a_session_works_as_one_of_sqlalchemys_own(
    maker: async_sessionmaker[AsyncSession],
) -> None:
    async with maker() as session:
        assert type(session) is AsyncSession
        author = Author(name="Ursula", books=[Book(title="The Word"), Book(title="Earthsea")])
        session.add(author)
        await session.flush()
        assert author.id is not None
        await session.commit()
        # After a commit the session goes on, on the same connection.
        author.name = "Ursula K."
        await session.commit()
        await session.refresh(author)
        assert author.name == "Ursula K."
        with pytest.raises(KeyError):
            async with session.begin_nested():
                session.add(Author(name="nobody"))
                raise KeyError
        async with session.begin_nested():
            session.add(Author(name="Stanislaw"))
        await session.commit()
        session.add(Author(name="never"))
        await session.rollback()
        query = select(Author).options(selectinload(Author.books)).order_by(Author.id)
        first, second = (await session.scalars(query)).all()
        assert [book.title for book in first.books] == ["The Word", "Earthsea"]
        assert second.name == "Stanislaw"
        titles = await session.stream_scalars(select(Book.title).order_by(Book.id))
        assert [title async for title in titles] == ["The Word", "Earthsea"]
        assert await session.get(Author, first.id) is first
        await session.delete(second)
        await session.commit()
    assert await names(maker) == ["Ursula K."]


async def test_what_is_not_committed_is_rolled_back(
    maker: async_sessionmaker[AsyncSession],
) -> None:
    async with maker() as session:
        session.add(Author(name="one"))
        await session.flush()
    with pytest.raises(KeyError):
        async with maker() as session:
            session.add(Author(name="two"))
            await session.flush()
            raise KeyError
    assert await names(maker) == []


async def test_begin_commits_at_the_end_unless_an_exception_leaves_the_block(
    maker: async_sessionmaker[AsyncSession],
) -> None:
    async with maker.begin() as session:
        session.add(Author(name="one"))
    with pytest.raises(KeyError):
        async with maker.begin() as session:
            session.add(Author(name="two"))
            await session.flush()
            raise KeyError
    with pytest.raises(InvalidRequestError, match="closed transaction inside context manager"):
        async with maker.begin() as session:
            session.add(Author(name="three"))
            await session.commit()
            await session.scalar(select(1))
    assert await names(maker) == ["one", "three"]


#: Raises the error by which a server asks for a transaction to be tried again.
CONFLICT = text("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")


FAILING_AT_COMMIT = text("""
DO $do$ BEGIN
    CREATE FUNCTION pg_temp.conflict() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$;
    CREATE CONSTRAINT TRIGGER conflict AFTER INSERT ON at_commit
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.conflict();
END $do$
""")


@pytest.mark.parametrize("route", ["explicit", "auto"])
async def test_what_a_try_that_failed_has_added_is_new_for_the_next(
    manager: PoolManager, maker: async_sessionmaker[AsyncSession], route: Any
) -> None:
    """It may have been made outside of the work, from the data of a request for example."""
    sessions = async_sessionmaker(manager, route=route)
    by_run, by_begin = Author(name="by run"), Author(name="by begin")
    tries = 0

    async def work(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        session.add(by_run)
        await session.flush()
        if tries == 1:
            await session.execute(CONFLICT)

    await sessions.run(work)
    assert tries == 2
    for attempt in range(2):
        try:
            async with sessions.begin() as session:
                session.add(by_begin)
                await session.flush()
                if attempt == 0:
                    await session.execute(CONFLICT)
        except DBAPIError:
            assert attempt == 0
    assert await names(maker) == ["by run", "by begin"]


async def test_a_conflict_at_commit_has_the_work_done_again_with_the_same_objects(
    manager: PoolManager, maker: async_sessionmaker[AsyncSession]
) -> None:
    async with maker() as session:
        session.add(Author(id=1, name="one"))
        await session.commit()
    book = Book(title="late", author_id=1)
    tries = 0

    async def work(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        session.add(book)
        if tries == 1:
            # Serializable transactions fail like this: a conflict shows only at the end.
            await session.execute(text("CREATE TEMP TABLE at_commit (i int) ON COMMIT DROP"))
            await session.execute(FAILING_AT_COMMIT)
            await session.execute(text("INSERT INTO at_commit VALUES (1)"))

    await async_sessionmaker(manager).run(work)
    assert tries == 2
    async with maker() as session:
        assert list(await session.scalars(select(Book.title))) == ["late"]


async def test_a_read_only_session_is_on_a_replica(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager
) -> None:
    recovers = text("SELECT pg_is_in_recovery()")
    async with maker(True) as one, maker(read_only=True, timeout=5) as other, maker() as third:
        assert await one.scalar(recovers)
        assert await other.scalar(recovers)
        assert not await third.scalar(recovers)
        with pytest.raises(NotAvailableError):
            async with maker.begin(read_only=True, timeout=0.05):
                pass
    async with maker(read_only=True, master_as_replica_weight=1.0) as session:
        assert not await session.scalar(recovers)
    async with maker.begin(True) as session:
        assert await session.scalar(recovers)
        with pytest.raises(DBAPIError, match="read-only"):
            await session.execute(text("CREATE TABLE never (i int)"))
        await session.rollback()
    assert not any(node.in_flight for node in manager.metrics().nodes)


async def test_fallback_master_is_for_when_there_is_no_replica(
    pg_cluster: LocalCluster,
) -> None:
    async with PoolManager(pg_cluster.master.dsn) as manager:
        maker = async_sessionmaker(manager)
        async with maker(read_only=True, fallback_master=True) as session:
            assert not await session.scalar(text("SELECT pg_is_in_recovery()"))
        with pytest.raises(NotAvailableError):
            async with maker(read_only=True, timeout=0.05):
                pass


async def test_a_commit_that_fails_gives_the_connection_back(
    maker: async_sessionmaker[AsyncSession],
) -> None:
    orphan = Book(title="by nobody", author_id=-1)
    with pytest.raises(IntegrityError):
        async with maker.begin() as session:
            session.add(orphan)
    with pytest.raises(IntegrityError):
        async with maker() as session:
            session.add(Book(title="by nobody", author_id=-1))
            await session.commit()
    async with maker() as session:
        assert await session.scalar(select(Book)) is None


@pytest.mark.parametrize("commit", [False, True])
async def test_closing_it_early_or_twice_does_no_harm(
    maker: async_sessionmaker[AsyncSession], commit: bool
) -> None:
    async with maker.begin() if commit else maker() as session:
        session.add(Author(name="one"))
        await session.flush()
        await session.close()
        await session.close()
    await session.close()
    assert await names(maker) == []


async def test_after_its_block_a_session_is_of_no_use(
    maker: async_sessionmaker[AsyncSession],
) -> None:
    async with maker() as session:
        await session.scalar(select(1))
    async with maker() as other:
        pid = await other.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(InvalidRequestError):
            await session.scalar(select(1))
        assert await other.scalar(text("SELECT pg_backend_pid()")) == pid


async def test_whoever_is_cancelled_gives_the_connection_back(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager
) -> None:
    async def sleep() -> None:
        async with maker.begin(timeout=30) as session:
            session.add(Author(name="asleep"))
            await session.flush()
            inside.set()
            await session.execute(text("SELECT pg_sleep(60)"))

    for waits in (False, True):
        inside = asyncio.Event()
        sleepers = [asyncio.ensure_future(sleep()) for _ in range(2)]
        await inside.wait()  # the other sleeper waits for the only connection
        for sleeper in sleepers[::-1] if waits else sleepers:
            sleeper.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sleeper
        assert not any(node.in_flight for node in manager.metrics().nodes)
        async with maker(timeout=5) as session:
            assert await session.scalar(select(1)) == 1


async def test_a_switchover_between_two_sessions(
    maker: async_sessionmaker[AsyncSession], manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    async with maker.begin() as session:
        session.add(Author(name="before"))
    async with maker() as session:
        old = await session.scalar(text("SELECT inet_server_port()"))
    new = await pg_cluster.switchover()
    async with maker.begin(timeout=20) as session:
        assert await session.scalar(text("SELECT inet_server_port()")) == new.port != old
        session.add(Author(name="after"))
    assert await names(maker) == ["before", "after"]
    await manager.ready(1, 2, timeout=20)


async def test_a_session_whose_connection_is_lost_does_not_get_another(
    maker: async_sessionmaker[AsyncSession], pg_cluster: LocalCluster
) -> None:
    async with maker() as session:
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
        await pg_cluster.master.sql(f"SELECT pg_terminate_backend({pid}, 5000)")
        for _ in range(3):
            with pytest.raises(DBAPIError):
                await session.scalar(select(1))
            await session.rollback()
    async with maker(timeout=5) as session:
        assert await session.scalar(select(1)) == 1


async def test_the_class_and_the_options_are_the_users(manager: PoolManager) -> None:
    class Mine(AsyncSession):
        pass

    maker = async_sessionmaker(manager, class_=Mine, info={"of": "all"}, autoflush=False)
    async with maker(info={"of": "one"}) as session:
        assert isinstance(session, Mine)
        assert session.info == {"of": "one"}
        assert not session.autoflush
    async with maker.begin() as session:
        assert session.info == {"of": "all"}
    assert repr(maker).startswith("<async_sessionmaker of Mine on <hasql.asyncsqlalchemy.Pool")


@pytest.mark.parametrize("name", ["bind", "binds"])
async def test_another_bind_is_refused(name: str) -> None:
    manager = PoolManager("postgresql://db1,db2/app")
    arguments: dict[str, Any] = {name: None}
    with pytest.raises(ConfigurationError, match=f"drop '{name}'"):
        async_sessionmaker(manager, **arguments)
    maker = async_sessionmaker(manager)
    with pytest.raises(ConfigurationError, match=f"drop '{name}'"):
        maker(**arguments)
    with pytest.raises(ConfigurationError, match=f"drop '{name}'"):
        maker.begin(**arguments)
