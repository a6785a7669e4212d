"""SQLAlchemy's engine follows a name that moves, on a real server and a real nameserver."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from sqlalchemy import URL, event, text
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.pg8000 import PGDialect_pg8000
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from hasql.dns import clear_dns_cache, get_dns_engine
from hasql.errors import ConfigurationError, HasqlError, NameResolutionError
from testbed.black_hole import black_hole
from testbed.moving_server import MovingServer, moving_server
from testbed.nameserver import NameServer
from testbed.pace import Pace, fastest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

NAME = "db.example.test"
OLD, NEW, THIRD, FOURTH = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
NOBODY = "127.0.0.9"
DRIVERS = ("psycopg2", "psycopg", "pg8000")
#: Within how many seconds a move of a name with a TTL of one second must be seen. It takes 1.1 at
#: most if nothing else runs on the machine.
LATEST = 1.5
WHERE = text("SELECT host(inet_server_addr()), pg_backend_pid()")

of_each_driver = pytest.mark.parametrize("driver", DRIVERS)


@pytest.fixture(scope="module")
def server() -> Iterator[MovingServer]:
    with moving_server(OLD, NEW, THIRD, FOURTH) as server:
        yield server


@pytest.fixture
def nameserver() -> Iterator[NameServer]:
    # The nameserver of another test may have had the same port.
    clear_dns_cache()
    with NameServer() as nameserver:
        nameserver.set(NAME, OLD)
        yield nameserver


@pytest.fixture
def make(server: MovingServer, nameserver: NameServer) -> Iterator[Callable[..., Engine]]:
    """Make engines that ask the nameserver, and dispose of them at the end."""
    made: list[Engine] = []

    def make(driver: str = "psycopg", url: str | URL | None = None, **kwargs: Any) -> Engine:
        options: dict[str, Any] = {
            "dns_nameservers": [nameserver.address],
            "dns_timeout": 1,
            **kwargs,
        }
        made.append(get_dns_engine(url or server.url(driver, NAME), **options))
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()
    made.clear()
    gc.collect()


def where(connection: Connection) -> tuple[str, int]:
    """Return the address that a connection leads to, and the pid of its server process."""
    address, pid = connection.execute(WHERE).one()
    return address, pid


def ask(engine: Engine) -> tuple[str, int]:
    with engine.connect() as connection:
        return where(connection)


def until_at(engine: Engine, address: str, *, within: float = 5) -> None:
    """Wait until a checkout leads to this address."""
    end = time.monotonic() + within
    while ask(engine)[0] != address:
        assert time.monotonic() < end, f"no checkout leads to {address}"
        time.sleep(0.01)


class Load:
    """Threads that check out a connection, use it, give it back, and note what they have seen."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self._engine = engine
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(threads)
        #: When each checkout began, and where it led to.
        self.seen: list[tuple[float, str]] = []
        self._running = [self._pool.submit(self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            with self._engine.connect() as connection:
                self.seen.append((began, where(connection)[0]))
            time.sleep(0.001)

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until enough has been seen."""
        end = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.01)

    def end(self) -> None:
        """Stop, and raise any error that a thread has met."""
        self._stop.set()
        self._pool.shutdown()
        for each in self._running:
            each.result()


@contextmanager
def load(engine: Engine, threads: int = 4) -> Iterator[Load]:
    running = Load(engine, threads)
    try:
        yield running
    finally:
        running.end()


# The name moves


@of_each_driver
def test_a_record_is_repointed_under_load(
    make: Callable[..., Engine], nameserver: NameServer, driver: str
) -> None:
    engine = make(driver)
    with load(engine) as running:
        running.until(lambda: len(running.seen) > 10)
        nameserver.set(NAME, NEW)
        moved = time.monotonic()
        running.until(lambda: running.seen[-1][0] > moved + LATEST + 0.5)
    late = [at - moved for at, address in running.seen if address == OLD]
    assert max(late) <= LATEST
    assert {address for at, address in running.seen if at > moved + LATEST} == {NEW}


def test_a_time_to_live_of_zero_is_a_second(
    make: Callable[..., Engine], nameserver: NameServer
) -> None:
    nameserver.set(NAME, OLD, ttl=0)
    engine = make()
    ask(engine)
    took = []
    for address in (NEW, OLD, THIRD, NEW):  # several, because a busy machine may delay some
        began = time.monotonic()
        nameserver.set(NAME, address, ttl=0)
        until_at(engine, address)
        took.append(time.monotonic() - began)
        if took[-1] < LATEST:
            break
    assert min(took) < LATEST


@of_each_driver
def test_of_two_addresses_neither_is_reconnected(
    make: Callable[..., Engine], nameserver: NameServer, driver: str
) -> None:
    nameserver.set(NAME, OLD, NEW, ttl=0)
    engine = make(driver, pool_size=1, max_overflow=0)
    first = ask(engine)
    others = {OLD, NEW, THIRD} - {first[0]}
    nameserver.set(NAME, first[0], *others, ttl=0)
    nameserver.forget_questions()
    nameserver.wait_for_questions(4)
    assert ask(engine) == first


def test_a_name_that_rotates_reconnects_nothing(
    make: Callable[..., Engine], nameserver: NameServer
) -> None:
    nameserver.rotate(NAME, OLD, NEW, ttl=0)
    engine = make(pool_size=1, max_overflow=0)
    ask(engine)
    nameserver.wait_for_questions(4, kind="A")  # by then an address has come back
    pids = set()
    nameserver.forget_questions()
    while nameserver.count(kind="A") < 3:
        pids.add(ask(engine))
        time.sleep(0.01)
    assert len(pids) == 1


def test_a_connection_in_use_is_let_be(make: Callable[..., Engine], nameserver: NameServer) -> None:
    engine = make()
    with engine.connect() as connection:
        before = where(connection)
        nameserver.set(NAME, NEW)
        until_at(engine, NEW)
        assert where(connection) == before
    until_at(engine, NEW)


def test_other_engines_are_left_alone(
    make: Callable[..., Engine], server: MovingServer, nameserver: NameServer
) -> None:
    engine = make()
    plain = sqlalchemy.create_engine(server.url("psycopg", OLD))
    before = ask(plain)
    ask(engine)
    nameserver.set(NAME, NEW)
    until_at(engine, NEW)
    assert ask(plain) == before
    plain.dispose()


def test_a_name_that_moves_on_while_it_is_reconnected_costs_no_error(
    make: Callable[..., Engine], nameserver: NameServer
) -> None:
    nameserver.set(NAME, OLD, ttl=0)
    engine = make(pool_size=1, max_overflow=0)
    ask(engine)
    nameserver.set(NAME, NEW, ttl=0)
    nameserver.forget_questions()
    nameserver.wait_for_questions(4)

    @event.listens_for(engine, "connect", once=True)
    def move_on(*_: object) -> None:
        nameserver.set(NAME, THIRD, ttl=0)
        nameserver.forget_questions()
        nameserver.wait_for_questions(4)

    assert ask(engine)[0] == NEW
    assert ask(engine)[0] == THIRD


# The nameserver is away


@of_each_driver
def test_without_a_nameserver_what_is_in_the_pool_serves(
    make: Callable[..., Engine], nameserver: NameServer, driver: str
) -> None:
    options = {"dns_grace_ttl": 0.5, "dns_extend_grace": False, "dns_timeout": 0.2}
    engine = make(driver, **options, dns_fallback=False, pool_size=1, max_overflow=1)
    first = ask(engine)
    nameserver.stop()
    began, pace = time.monotonic(), Pace(0.1)
    while time.monotonic() - began < 2.5:
        with pace.working():
            assert ask(engine) == first
        with pace.pausing():
            time.sleep(0.001)
    assert pace.slow < 5  # if they waited for the nameserver, all would be slow: a dozen
    with engine.connect(), pytest.raises(NameResolutionError, match=NAME) as caught:
        engine.connect()
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, HasqlError)
    nameserver.start()
    end = time.monotonic() + 5
    with engine.connect() as one:
        other = None
        while other is None and time.monotonic() < end:
            with suppress(NameResolutionError):  # the failure is remembered for a second
                other = engine.connect()
        assert other is not None
        assert where(one) != where(other)
        other.close()


def test_without_a_nameserver_an_old_answer_serves_new_connects(
    make: Callable[..., Engine], nameserver: NameServer
) -> None:
    engine = make(poolclass=NullPool, dns_timeout=0.2, dns_fallback=False)
    ask(engine)
    nameserver.stop()
    time.sleep(1.2)  # the TTL of the answer is over

    def connect() -> None:
        assert ask(engine)[0] == OLD

    assert fastest(connect) < 0.5


# Several addresses


@of_each_driver
def test_an_address_that_refuses_is_passed_over(
    make: Callable[..., Engine], nameserver: NameServer, driver: str
) -> None:
    nameserver.set(NAME, NOBODY, NEW)
    engine = make(driver)

    def connect() -> None:
        engine.dispose()
        assert ask(engine)[0] == NEW

    assert fastest(connect) < 0.9
    nameserver.set(NAME, NOBODY, THIRD)
    until_at(engine, THIRD)


@of_each_driver
def test_an_address_that_is_silent_costs_a_moment(
    make: Callable[..., Engine], server: MovingServer, nameserver: NameServer, driver: str
) -> None:
    # The address that answers comes last, so all the others are dialled before it.
    silent = [f"127.0.0.{number}" for number in range(20, 26)]
    nameserver.set(NAME, *silent, NEW)
    with ExitStack() as stack:
        for address in silent:
            stack.enter_context(black_hole(address, server.port))

        def connect() -> None:
            assert ask(make(driver))[0] == NEW

        assert fastest(connect, 3) < 1.5


@of_each_driver
def test_where_all_refuse_the_error_is_the_drivers(
    make: Callable[..., Engine], nameserver: NameServer, driver: str
) -> None:
    nameserver.set(NAME, NOBODY, "127.0.0.8")
    with pytest.raises(DBAPIError, match="efused"):
        ask(make(driver))


def test_a_name_is_looked_up_again_where_a_connect_has_failed(
    make: Callable[..., Engine], nameserver: NameServer
) -> None:
    nameserver.set(NAME, NOBODY, ttl=3600)
    engine = make()
    with pytest.raises(OperationalError):
        ask(engine)
    nameserver.set(NAME, NEW)
    end = time.monotonic() + 10
    while True:
        with suppress(OperationalError):
            assert ask(engine)[0] == NEW
            break
        assert time.monotonic() < end, "the name is taken for what it was an hour ago"
        time.sleep(0.1)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_wrong_port_is_the_drivers_to_refuse(
    make: Callable[..., Engine], server: MovingServer, nameserver: NameServer, driver: str
) -> None:
    nameserver.set(NAME, OLD, NEW)
    engine = make(url=server.url(driver, NAME), connect_args={"port": "five"})
    with pytest.raises(DBAPIError, match="five"):
        ask(engine)


# What create_engine takes


def test_building_an_engine_connects_to_nothing_and_asks_nobody(
    make: Callable[..., Engine], nameserver: NameServer
) -> None:
    threads = threading.active_count()
    make(url=f"postgresql+psycopg://u:p@{NAME}:1/app")
    assert (nameserver.questions, threading.active_count()) == ([], threads)


@pytest.mark.parametrize("name", ["creator", "async_creator", "pool"])
def test_what_opens_connections_by_itself_is_refused(name: str) -> None:
    given: dict[str, Any] = {name: lambda: None}
    with pytest.raises(ConfigurationError, match=f"'{name}' opens.*instead|'{name}'.*leave it out"):
        get_dns_engine("postgresql+psycopg://u@db.example.test/app", **given)


def test_it_refuses_what_create_engine_refuses() -> None:
    with pytest.raises(TypeError, match="pool_sizes"):
        get_dns_engine("postgresql+psycopg://u@db.example.test/app", pool_sizes=3)
    with pytest.raises(TypeError):
        get_dns_engine("postgresql+psycopg://u@db.example.test/app", object())


@of_each_driver
def test_a_url_object_keeps_its_password(
    make: Callable[..., Engine], server: MovingServer, driver: str
) -> None:
    url = URL.create(f"postgresql+{driver}", server.user, server.password, NAME, server.port, "app")
    engine = make(url=url)
    assert ask(engine)[0] == OLD
    assert engine.url is url or engine.url == url
    assert server.password not in repr(engine)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_password_file_goes_by_the_name(
    make: Callable[..., Engine],
    server: MovingServer,
    nameserver: NameServer,
    tmp_path: Path,
    driver: str,
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text(f"{NAME}:{server.port}:app:{server.user}:{server.password}\n")
    passwords.chmod(0o600)
    nameserver.set(NAME, NOBODY, OLD)
    url = f"postgresql+{driver}://{server.user}@{NAME}:{server.port}/app?passfile={passwords}"
    assert ask(make(url=url))[0] == OLD


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_host_in_the_urls_query_is_followed(
    make: Callable[..., Engine], server: MovingServer, nameserver: NameServer, driver: str
) -> None:
    login = f"{server.user}:{server.password}"
    engine = make(url=f"postgresql+{driver}://{login}@/app?host={NAME}:{server.port}")
    assert ask(engine)[0] == OLD
    nameserver.set(NAME, NEW)
    until_at(engine, NEW)


@of_each_driver
def test_the_host_may_be_in_connect_args(
    make: Callable[..., Engine], server: MovingServer, nameserver: NameServer, driver: str
) -> None:
    engine = make(url=server.url(driver, "elsewhere.test"), connect_args={"host": NAME})
    assert ask(engine)[0] == OLD
    nameserver.set(NAME, NEW)
    until_at(engine, NEW)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_where_no_name_is_looked_up_it_is_any_engine(
    make: Callable[..., Engine], server: MovingServer, nameserver: NameServer, driver: str
) -> None:
    several = f"?host={OLD}:{server.port}&host={NEW}:{server.port}"
    assert ask(make(url=server.url(driver, OLD)))[0] == OLD
    bare = f"postgresql+{driver}://{server.user}:{server.password}@/app"
    assert ask(make(url=bare + several))[0] == OLD
    name = "with-an-address.test"
    hostaddr = {"hostaddr": THIRD, "host": name}
    assert ask(make(url=server.url(driver, name), connect_args=hostaddr))[0] == THIRD
    with pytest.raises(OperationalError, match="/nowhere"):
        ask(make(url=f"{bare}?host=/nowhere"))
    # An engine of an earlier part may ask for its name once more.
    assert {question.name for question in nameserver.questions} <= {NAME}


def test_the_environment_may_say_where_the_host_is(
    make: Callable[..., Engine],
    server: MovingServer,
    nameserver: NameServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGHOSTADDR", THIRD)
    assert ask(make(url=server.url("psycopg2", NAME)))[0] == THIRD
    monkeypatch.delenv("PGHOSTADDR")
    monkeypatch.setenv("PGHOST", NEW)
    monkeypatch.setenv("PGPORT", str(server.port))
    bare = f"postgresql+psycopg2://{server.user}:{server.password}@/app"
    assert ask(make(url=bare))[0] == NEW
    assert nameserver.questions == []


def test_a_database_without_hosts_is_any_engine(
    make: Callable[..., Engine], nameserver: NameServer
) -> None:
    engine = make(url="sqlite://")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    assert nameserver.questions == []


class PlainDialect(PGDialect_pg8000):
    """A dialect unknown to hasql, whose driver looks up names by itself."""

    driver = "plain"
    supports_statement_cache = True
    leads_to = OLD

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        assert cparams["host"] == NAME
        return super().connect(*cargs, **{**cparams, "host": self.leads_to})


def test_a_driver_that_looks_up_names_itself_is_followed_by_what_its_name_had(
    make: Callable[..., Engine], server: MovingServer, nameserver: NameServer
) -> None:
    registry.impls["postgresql.plain"] = lambda: PlainDialect
    nameserver.set(NAME, OLD, THIRD)
    engine = make(url=server.url("plain", NAME), pool_size=1, max_overflow=0)
    assert isinstance(engine.dialect, PlainDialect)
    before = ask(engine)
    nameserver.set(NAME, NEW, THIRD)
    nameserver.forget_questions()
    nameserver.wait_for_questions(4)
    assert ask(engine) == before  # as far as hasql knows it may lead to THIRD
    engine.dialect.leads_to = NEW
    nameserver.set(NAME, NEW)
    until_at(engine, NEW)


# Pools, events, and the rest of SQLAlchemy


@pytest.mark.parametrize("poolclass", [QueuePool, NullPool, StaticPool])
@pytest.mark.parametrize("pre_ping", [False, True])
def test_every_pool_follows(
    make: Callable[..., Engine], nameserver: NameServer, poolclass: type, pre_ping: bool
) -> None:
    engine = make(poolclass=poolclass, pool_pre_ping=pre_ping)
    assert ask(engine)[0] == OLD
    for address in (NEW, THIRD):
        nameserver.set(NAME, address)
        until_at(engine, address)
    engine.dispose()
    nameserver.set(NAME, FOURTH)
    until_at(engine, FOURTH)


def test_engines_made_of_it_follow_as_well(
    make: Callable[..., Engine], nameserver: NameServer
) -> None:
    engine = make().execution_options(isolation_level="AUTOCOMMIT")
    assert ask(engine)[0] == OLD
    nameserver.set(NAME, NEW)
    gc.collect()
    until_at(engine, NEW)


def test_a_move_invalidates_no_connection_that_is_well(
    make: Callable[..., Engine], nameserver: NameServer
) -> None:
    engine = make(pool_size=2, max_overflow=0, pool_pre_ping=True, pool_use_lifo=True)
    with engine.connect() as old:
        before = where(old)
        nameserver.set(NAME, NEW)
        with engine.connect() as new:
            while where(new)[0] != NEW:
                new.rollback()
                new.invalidate()
            stays = where(new)
    # Both connections are idle now, and the old one would be checked out next.
    assert before[0] == OLD
    assert ask(engine) != before
    with engine.connect(), engine.connect() as other:
        assert where(other) == stays


def test_listeners_of_the_users_own_are_called(
    make: Callable[..., Engine], server: MovingServer, nameserver: NameServer
) -> None:
    engine = make(url=server.url("psycopg", NAME).replace(server.password, "wrong"))
    heard: Counter[str] = Counter()

    @event.listens_for(engine, "do_connect")
    def token(*args: Any) -> None:
        args[3]["password"] = server.password

    for name in ("connect", "checkout", "invalidate"):
        event.listen(engine, name, lambda *_, name=name: heard.update([name]))
    ask(engine)
    nameserver.set(NAME, NEW)
    until_at(engine, NEW)
    assert heard["connect"] == 2
    assert heard["invalidate"] == 1
    assert heard["checkout"] >= 2


def test_a_listener_that_connects_elsewhere_is_let_be(
    make: Callable[..., Engine], nameserver: NameServer
) -> None:
    engine = make("psycopg2", pool_size=1, max_overflow=0)

    @event.listens_for(engine, "do_connect")
    def elsewhere(*args: Any) -> None:
        args[3].update(host=THIRD, hostaddr=THIRD)

    assert ask(engine)[0] == THIRD
    assert nameserver.questions == []


def test_a_host_that_a_listener_puts_is_followed(
    make: Callable[..., Engine], server: MovingServer, nameserver: NameServer
) -> None:
    engine = make(url=server.url("psycopg2", "elsewhere.test"))

    @event.listens_for(engine, "do_connect")
    def put(*args: Any) -> None:
        args[3].update(host=NAME)

    assert ask(engine)[0] == OLD
    nameserver.set(NAME, NEW)
    until_at(engine, NEW)


def test_a_connection_that_a_listener_returns_is_let_be(
    make: Callable[..., Engine], server: MovingServer, nameserver: NameServer
) -> None:
    engine = make("psycopg", pool_size=1, max_overflow=0)

    @event.listens_for(engine, "do_connect")
    def own(dialect: Any, *_: Any) -> Any:
        url = server.url("psycopg", THIRD).replace("+psycopg", "")
        return dialect.loaded_dbapi.connect(url)

    first = ask(engine)
    nameserver.set(NAME, NEW)
    until_at(make("psycopg2"), NEW)
    assert ask(engine) == first


def test_a_listener_that_fails_leaves_no_socket(make: Callable[..., Engine]) -> None:
    engine = make("pg8000")

    @event.listens_for(engine, "do_connect")
    def fail(*_: Any) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        ask(engine)
    gc.collect()  # a ResourceWarning would fail the test


# Threads, forks, and the end


def test_many_threads_share_an_engine_while_its_name_flaps(
    make: Callable[..., Engine], nameserver: NameServer
) -> None:
    nameserver.set(NAME, OLD, ttl=0)
    engine = make(pool_size=4, max_overflow=0)
    with load(engine, threads=16) as running:
        running.until(lambda: len(running.seen) > 100)
        for address in (NEW, THIRD):
            nameserver.set(NAME, address, ttl=0)
            running.until(lambda: running.seen[-1][1] == address)  # noqa: B023  # in this turn
        # OLD has left only a moment ago, so for hasql the name may be one that rotates.
        nameserver.set(NAME, OLD, ttl=0)
        time.sleep(1.5)
    assert {address for _, address in running.seen} >= {OLD, NEW, THIRD}


def test_one_lookup_serves_all_threads(make: Callable[..., Engine], nameserver: NameServer) -> None:
    nameserver.set(NAME, OLD, ttl=60)
    engine = make(pool_size=8, max_overflow=0)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ask(engine), range(64)))
    assert nameserver.count(kind="A") == 1


def test_a_forked_child_follows_for_itself(
    make: Callable[..., Engine], nameserver: NameServer
) -> None:
    engine = make()
    before = ask(engine)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            engine.dispose(close=False)
            first = ask(engine)[0]
            os.write(writing, b"%s\n" % first.encode())
            until_at(engine, NEW, within=10)
            os.write(writing, b"followed\n")
        finally:
            os._exit(0)  # nothing of pytest may run in the child
    os.close(writing)
    with os.fdopen(reading) as said:
        assert said.readline() == f"{OLD}\n"
        nameserver.set(NAME, NEW)
        assert said.readline() == "followed\n"
    os.waitpid(child, 0)
    until_at(engine, NEW)
    assert ask(engine) != before


def test_an_engine_that_is_gone_follows_nothing(
    server: MovingServer, nameserver: NameServer
) -> None:
    engine = get_dns_engine(
        server.url("psycopg", NAME), dns_nameservers=[nameserver.address], dns_timeout=1
    )
    ask(engine)
    engine.dispose()
    nameserver.forget_questions()
    nameserver.wait_for_questions(2)  # the look-ups go on after that
    assert lookup_threads()
    del engine
    gc.collect()
    end = time.monotonic() + 5
    while lookup_threads():
        assert time.monotonic() < end
        time.sleep(0.01)
    nameserver.forget_questions()
    time.sleep(1.2)  # the TTL of the answer is over
    assert nameserver.questions == []


def lookup_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "hasql-dns"]
