"""What is particular to SQLAlchemy in threads: the library beneath, leases, listeners, sessions."""

from __future__ import annotations

import asyncio
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from psycopg2 import extensions
from sqlalchemy import Connection, Engine, event, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ResourceClosedError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import QueuePool

from hasql import ConfigurationError, NotAvailableError
from hasql.cluster.dsn import Dsn
from hasql.sync.sqlalchemy import PoolManager, sessionmaker
from testbed.scene import Table, fail_over, sessions, until_sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.testing import LocalCluster

PID = text("SELECT pg_backend_pid()")
RAW = {"psycopg": psycopg.Connection, "psycopg2": extensions.connection}


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = f"users_{uuid4().hex}"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


@pytest.fixture(params=["psycopg", "psycopg2"])
def driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def over(driver: str, dsn: str) -> str:
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


@pytest.fixture
def manager(pg_cluster: LocalCluster, driver: str) -> Iterator[PoolManager]:
    kwargs = {"pool_size": 2, "max_overflow": 0}
    with PoolManager(
        over(driver, pg_cluster.dsn), refresh_delay=0.2, pool_factory_kwargs=kwargs
    ) as manager:
        manager.ready(1, 2)
        yield manager


@pytest.fixture
def table(pg_cluster: LocalCluster) -> Table:
    name = f"t_{uuid4().hex}"
    asyncio.run(pg_cluster.master.sql(f"CREATE TABLE {name} (i int); GRANT ALL ON {name} TO app"))
    return Table(name)


@pytest.fixture
def users(manager: PoolManager) -> Iterator[None]:
    """An empty table for the ORM's class."""
    with manager.acquire_master() as connection:
        Base.metadata.create_all(connection)
        connection.commit()
    yield
    with manager.acquire_master(timeout=10) as connection:
        Base.metadata.drop_all(connection)
        connection.commit()


def pid_of(connection: Connection) -> int:
    pid = connection.scalar(PID)
    assert isinstance(pid, int)
    return pid


def terminate(cluster: LocalCluster, pid: int) -> None:
    asyncio.run(cluster.master.sql(f"SELECT pg_terminate_backend({pid}, 5000)"))


# Which driver, and its arguments


def test_the_dsn_says_what_is_used_beneath(pg_cluster: LocalCluster) -> None:
    for scheme, name in (
        ("postgresql", "psycopg"),
        ("postgres", "psycopg"),
        ("postgresql+psycopg", "psycopg"),
        ("postgresql+psycopg2", "psycopg2"),
    ):
        dsn = pg_cluster.dsn.replace("postgresql", scheme, 1)
        with PoolManager(dsn) as manager, manager.acquire_master() as connection:
            assert type(connection) is Connection
            assert connection.dialect.driver == name
            assert isinstance(connection.connection.driver_connection, RAW[name])


@pytest.mark.parametrize("driver", ["asyncpg", "pg8000"])
def test_another_driver_is_refused_by_the_names_of_those_there_are(driver: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\+psycopg:// or postgresql\+psycopg2://"):
        PoolManager(f"postgresql+{driver}://db1,db2/app")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"pool_sise": 5}, "did you mean 'pool_size'"),
        ({"pool_size": -1}, "'pool_size'] must be an int, 0 or more, not -1"),
        ({"poolclass": object}, "'poolclass' cannot be given: hasql makes"),
        ({"creator": object}, "'creator' cannot be given: hasql makes"),
        ({"pool_reset_on_return": "nonsense"}, "nonsense"),
        ({"connect_args": 5}, "connect_args must be a dict, not int"),
        ({"connect_args": {"host": "elsewhere"}}, "connect_args.* 'host'"),
        ({"connect_args": {"nonsense": 1}}, "nonsense"),
    ],
)
def test_arguments_that_cannot_work_fail_at_once(
    driver: str, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PoolManager(f"postgresql+{driver}://db1,db2/app", pool_factory_kwargs=kwargs)


def test_an_unknown_argument_is_refused_in_the_name_of_create_engine(driver: str) -> None:
    with pytest.raises(ConfigurationError, match=r"(?<!async_)(?<!\w)create_engine"):
        PoolManager(f"postgresql+{driver}://db1,db2/app", pool_factory_kwargs={"no_such": 1})


def test_connect_args_reach_the_pools_connections_and_the_reserved_one(
    pg_cluster: LocalCluster, driver: str, application: str
) -> None:
    kwargs = {"connect_args": {"application_name": application}}
    with (
        PoolManager(over(driver, pg_cluster.master.dsn), pool_factory_kwargs=kwargs) as manager,
        manager.acquire_master(),
        manager.acquire_master(),
    ):
        assert asyncio.run(sessions(pg_cluster.master, application)) == 2 + 1
    asyncio.run(until_sessions(pg_cluster.master, application, 0))


def test_options_of_the_engine_are_at_work(pg_cluster: LocalCluster, driver: str) -> None:
    kwargs = {
        "isolation_level": "SERIALIZABLE",
        "json_deserializer": lambda _: "mine",
        "pool_pre_ping": True,
        "pool_recycle": 3600,
        "pool_timeout": 30,
        "pool_use_lifo": True,
    }
    with PoolManager(over(driver, pg_cluster.master.dsn), pool_factory_kwargs=kwargs) as manager:
        for _ in range(2):
            with manager.acquire_master() as connection:
                assert connection.scalar(text("SHOW transaction_isolation")) == "serializable"
                json = text("SELECT '{}'::json, '{}'::jsonb")
                assert connection.execute(json).one() == ("mine", "mine")


def test_the_engine_shows_its_host_and_no_password(manager: PoolManager) -> None:
    for pool in manager.pools:
        assert isinstance(pool, Engine)
        assert isinstance(pool.pool, QueuePool)
        assert f"127.0.0.1:{pool.url.port}" == manager.host(pool)
        assert pool.url.password is None


def test_an_isolation_level_is_that_of_one_lease(manager: PoolManager) -> None:
    with manager.acquire_master() as connection:
        pid = pid_of(connection)
        connection.commit()
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("BEGIN")
    for _ in range(2):
        with manager.acquire_master() as connection, manager.acquire_master() as other:
            assert pid in {pid_of(connection), pid_of(other)}
            for each in (connection, other):
                assert each.scalar(text("SELECT now() = now()"))
                assert each.in_transaction()
                assert each.scalar(text("SHOW transaction_isolation")) == "read committed"


def test_what_was_not_committed_is_rolled_back(
    manager: PoolManager, pg_cluster: LocalCluster, table: Table
) -> None:
    with manager.acquire_master() as connection:
        connection.execute(text(table.insert(1)))
    with manager.acquire_master() as connection:
        connection.execute(text(table.insert(2)))
        connection.commit()
    assert asyncio.run(pg_cluster.master.sql(table.rows)) == "2"


# Leases


def test_one_lost_connection_leaves_the_others_of_its_pool_alone(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    with manager.acquire_master() as lost, manager.acquire_master() as other:
        survivor = pid_of(other)
        terminate(pg_cluster, pid_of(lost))
        with pytest.raises(DBAPIError) as caught:
            lost.execute(PID)
        assert caught.value.connection_invalidated
    manager.ready(1, 2)
    with manager.acquire_master() as one, manager.acquire_master() as other:
        assert survivor in {pid_of(one), pid_of(other)}


def test_a_lease_does_not_go_on_with_another_connection(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    with manager.acquire_master() as connection:
        terminate(pg_cluster, pid_of(connection))
        for _ in range(3):
            with pytest.raises(DBAPIError) as caught:
                connection.execute(PID)
            assert caught.value.connection_invalidated
            assert manager.is_connection_closed(connection)
            connection.rollback()
        with pytest.raises(OperationalError, match="the connection was lost; acquire another one"):
            connection.exec_driver_sql("SELECT 1")
    manager.ready(1, 2)
    with manager.acquire_master() as one, manager.acquire_master() as other:
        assert pid_of(one) != pid_of(other)


def test_who_has_lost_a_connection_goes_on_with_another_lease_within_its_block(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    with manager.acquire_master() as connection:
        lost = pid_of(connection)
        terminate(pg_cluster, lost)
        with pytest.raises(DBAPIError):
            connection.execute(PID)
        with manager.acquire_master() as other:
            assert pid_of(other) != lost
        with manager.get_pool(read_only=False).connect() as other:
            assert pid_of(other) != lost
        connection.rollback()
        with pytest.raises(OperationalError, match="the connection was lost; acquire another one"):
            connection.execute(PID)


def test_what_the_engine_lends_directly_does_go_on(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    engine = manager.get_pool(read_only=False)
    with engine.connect() as connection:
        terminate(pg_cluster, pid_of(connection))
        with pytest.raises(DBAPIError):
            connection.execute(PID)
        connection.rollback()
        assert connection.scalar(text("SELECT 1")) == 1


@pytest.mark.parametrize("way", ["close", "invalidate", "detach", "dispose"])
def test_a_connection_that_was_ended_within_its_lease_hurts_nobody_else(
    manager: PoolManager, way: str
) -> None:
    ended = manager.getconn()
    pid = pid_of(ended)
    if way == "close":
        ended.close()
    elif way == "invalidate":
        ended.invalidate()
    elif way == "detach":
        ended.detach()
        ended.commit()
    else:
        manager.get_pool(read_only=False).dispose()
    with manager.acquire_master() as other:
        stranger = pid_of(other)
        assert (stranger == pid) is (way == "close")
        manager.putconn(ended)
        assert pid_of(other) == stranger
        if way == "close":
            with pytest.raises(ResourceClosedError):
                ended.execute(PID)
    with (
        manager.acquire_master(timeout=5) as one,
        manager.acquire_master(timeout=5) as two,
    ):
        assert pid_of(one) != pid_of(two)


def test_the_applications_own_errors_evict_nothing(manager: PoolManager) -> None:
    with manager.acquire_master() as connection:
        pid = pid_of(connection)
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT 1/0"))
    with manager.acquire_master() as connection, manager.acquire_master() as other:
        assert pid in {pid_of(connection), pid_of(other)}


def test_a_read_only_error_evicts_though_the_application_catches_it(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    # The session is read-only by a default that may have changed since, not by the application.
    asyncio.run(pg_cluster.master.sql("ALTER ROLE app SET default_transaction_read_only = on"))
    try:
        with manager.acquire_master() as connection:
            pid = pid_of(connection)
            with pytest.raises(DBAPIError) as caught:
                connection.execute(text("CREATE TABLE never (i int)"))
            assert not caught.value.connection_invalidated
            connection.rollback()
            manager.wait_next_pool_check()  # by then the loop has heard of it
    finally:
        asyncio.run(pg_cluster.master.sql("ALTER ROLE app RESET default_transaction_read_only"))
    with manager.acquire_master() as one, manager.acquire_master() as other:
        assert pid not in {pid_of(one), pid_of(other)}


def test_a_statement_that_hangs_on_a_frozen_host_is_broken_off(
    pg_cluster: LocalCluster, driver: str
) -> None:
    master = pg_cluster.master
    with PoolManager(
        over(driver, master.dsn), refresh_delay=0.1, refresh_timeout=0.3, lease_abort_after=0.5
    ) as manager:
        connection = manager.getconn()
        pid_of(connection)
        master.freeze()
        try:
            began = monotonic()
            with pytest.raises(DBAPIError):
                connection.execute(PID)
            # The next statement does not connect to the silent host, either.
            connection.rollback()
            with pytest.raises(DBAPIError, match="the connection was lost"):
                connection.execute(PID)
            manager.putconn(connection)
            assert monotonic() - began < 5
        finally:
            master.thaw()
        manager.ready(1, 0)
        with manager.acquire_master() as connection:
            assert connection.scalar(text("SELECT 1")) == 1


# Listeners


def test_an_acquire_that_pings_a_frozen_host_ends_at_its_deadline(
    pg_cluster: LocalCluster, driver: str
) -> None:
    master = pg_cluster.master
    kwargs = {"pool_size": 1, "max_overflow": 0, "pool_pre_ping": True}
    with PoolManager(
        over(driver, master.dsn), refresh_delay=30, refresh_timeout=30, pool_factory_kwargs=kwargs
    ) as manager:
        with manager.acquire_master() as connection:
            connection.scalar(PID)
        master.freeze()
        try:
            began = monotonic()
            with pytest.raises(NotAvailableError):
                manager.getconn(timeout=0.1)
            assert monotonic() - began < 5, "a ping has no limit"
        finally:
            master.thaw()
        with manager.acquire_master(timeout=5) as connection:
            assert connection.scalar(text("SELECT 1")) == 1


@pytest.mark.parametrize("name", ["connect", "checkout"])
def test_a_listener_that_waits_for_the_server_is_broken_off_at_the_deadline(
    pg_cluster: LocalCluster, driver: str, name: str
) -> None:
    sleeps = threading.Event()

    def sleep(raw: Any, *_: object) -> None:
        if sleeps.is_set():
            raw.cursor().execute("SELECT pg_sleep(60)")

    kwargs = {"pool_size": 1, "max_overflow": 0, "pool_events": [(sleep, name)]}
    with PoolManager(over(driver, pg_cluster.master.dsn), pool_factory_kwargs=kwargs) as manager:
        manager.ready(1, 0)
        engine = manager.get_pool(read_only=False)
        if name == "checkout":
            with manager.acquire_master():
                pass
        else:
            engine.dispose()
        sleeps.set()
        began = monotonic()
        with pytest.raises(NotAvailableError):
            manager.getconn(timeout=0.3)
        assert monotonic() - began < 5, "it sleeps for a minute"
        sleeps.clear()
        with manager.acquire_master(timeout=5) as connection:
            assert connection.scalar(text("SELECT 1")) == 1


def test_a_listener_of_the_applications_own_that_fails_leaks_nothing(manager: PoolManager) -> None:
    engine = manager.get_pool(read_only=False)

    def fail(*_: object) -> None:
        raise LookupError("mine")

    event.listen(engine, "checkout", fail)
    for _ in range(5):
        with pytest.raises(LookupError, match="mine"):
            manager.getconn()
    event.remove(engine, "checkout", fail)
    with manager.acquire_master() as one, manager.acquire_master() as other:
        assert pid_of(one) != pid_of(other)


@pytest.mark.parametrize("makes", [False, True], ids=["arguments", "connections"])
def test_a_listener_to_do_connect_brings_the_password_of_all_logins(
    pg_cluster: LocalCluster, driver: str, makes: bool
) -> None:
    password = Dsn.parse(pg_cluster.dsn).password

    def bring(dialect: Any, _: object, positional: list[Any], arguments: dict[str, Any]) -> Any:
        arguments["password"] = password
        return dialect.connect(*positional, **arguments) if makes else None

    dsn = over(driver, pg_cluster.master.dsn).replace("@", "wrong@", 1)
    event.listen(Engine, "do_connect", bring)
    try:
        if makes and driver == "psycopg2":  # its connections cannot probe
            with pytest.raises(ConfigurationError, match="change the arguments instead"):
                PoolManager(dsn).__enter__()
            return
        with PoolManager(dsn, refresh_delay=0.1) as manager:
            manager.ready(1, 0)
            for _ in range(2):
                with manager.acquire_master(timeout=5) as connection:
                    assert connection.scalar(text("SELECT 1")) == 1
    finally:
        event.remove(Engine, "do_connect", bring)


# Sessions


@pytest.mark.usefixtures("users")
def test_a_session_works_as_one_of_sqlalchemys_own(manager: PoolManager) -> None:
    make = sessionmaker(manager, expire_on_commit=False)
    with make() as session:
        assert isinstance(session, Session)
        user = User(name="ada")
        session.add(user)
        session.commit()
        assert user.id
        session.add(User(name="grace"))
        session.flush()
        session.rollback()
        session.add(User(name="alan"))
        assert session.scalar(select(func.count()).select_from(User)) == 2
    with make.begin() as session:
        assert [each.name for each in session.scalars(select(User))] == ["ada"]
        session.add(User(name="barbara"))
    with make() as session:
        assert session.scalars(select(User.name).order_by(User.id)).all() == ["ada", "barbara"]


@pytest.mark.usefixtures("users")
def test_begin_commits_unless_an_exception_leaves_the_block(manager: PoolManager) -> None:
    make = sessionmaker(manager)

    def fail() -> None:
        with make.begin() as session:
            session.add(User(name="ada"))
            session.flush()
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    with make() as session:
        assert session.scalars(select(User)).all() == []


#: Raises the error by which a server asks for a transaction to be tried again.
CONFLICT = text("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize("route", ["explicit", "auto"])
def test_what_a_try_that_failed_has_added_is_new_for_the_next(
    manager: PoolManager, route: Any
) -> None:
    make = sessionmaker(manager, route=route)
    by_run, by_begin = User(name="by run"), User(name="by begin")
    tries = 0

    def work(session: Session) -> None:
        nonlocal tries
        tries += 1
        session.add(by_run)
        session.flush()
        if tries == 1:
            session.execute(CONFLICT)

    make.run(work)
    assert tries == 2
    for attempt in range(2):
        try:
            with make.begin() as session:
                session.add(by_begin)
                session.flush()
                if attempt == 0:
                    session.execute(CONFLICT)
        except DBAPIError:
            assert attempt == 0
    with sessionmaker(manager)() as session:
        assert session.scalars(select(User.name).order_by(User.id)).all() == ["by run", "by begin"]


@pytest.mark.usefixtures("users")
def test_a_commit_that_fails_is_raised_and_gives_the_connection_back(manager: PoolManager) -> None:
    make = sessionmaker(manager)
    for _ in range(3):
        with pytest.raises(IntegrityError), make.begin() as session:
            session.add_all([User(name="ada"), User(name="ada")])
    with manager.acquire_master(timeout=5) as one, manager.acquire_master(timeout=5) as other:
        assert pid_of(one) != pid_of(other)


def test_a_read_only_session_is_on_a_replica(manager: PoolManager) -> None:
    make = sessionmaker(manager)
    with make(read_only=True) as session:
        assert session.scalar(select(text("pg_is_in_recovery()"))) is True
    with make.begin(read_only=True) as session:
        assert session.scalar(select(text("pg_is_in_recovery()"))) is True
    with make() as session:
        assert session.scalar(select(text("pg_is_in_recovery()"))) is False


@pytest.mark.usefixtures("users")
def test_a_session_whose_connection_is_lost_does_not_get_another(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    make = sessionmaker(manager)
    with make() as session:
        session.scalar(PID)
        _, new = asyncio.run(fail_over(pg_cluster))
        for _ in range(2):
            with pytest.raises(DBAPIError):
                session.scalar(PID)
            session.rollback()
    with make(timeout=10) as session:
        assert session.scalar(select(text("inet_server_port()"))) == new.port
        session.add(User(name="ada"))
        session.commit()


def test_after_its_block_a_session_is_of_no_use(manager: PoolManager) -> None:
    with sessionmaker(manager)() as session:
        session.scalar(PID)
        session.close()
        session.scalar(PID)
    with pytest.raises(ResourceClosedError):
        session.scalar(PID)


def test_the_class_and_the_options_are_the_users(manager: PoolManager) -> None:
    class Mine(Session):
        pass

    make = sessionmaker(manager, class_=Mine, info={"of": "all"})
    assert repr(make).startswith("<sessionmaker of Mine on <hasql.sync.sqlalchemy.PoolManager")
    with make(info={"of": "one"}) as session:
        assert isinstance(session, Mine)
        assert session.info == {"of": "one"}


@pytest.mark.parametrize("name", ["bind", "binds"])
def test_another_bind_is_refused(name: str) -> None:
    manager = PoolManager("postgresql://db1/app")
    given: dict[str, Any] = {name: None}
    with pytest.raises(ConfigurationError, match=f"drop '{name}'"):
        sessionmaker(manager, **given)
    with pytest.raises(ConfigurationError, match=f"drop '{name}'"):
        sessionmaker(manager)(**given)
