"""`credentials=` is asked for each new connection to a server, with every driver."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from hasql.cluster.discovered import Discovered
from hasql.cluster.dsn import Dsn
from hasql.cluster.host import HostSpec
from hasql.discovery.sql import SqlDiscovery
from hasql.errors import ConfigurationError, NotAvailableError
from testbed.middlemen.addresses import dsn_through
from testbed.scene import end_those, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit

    Manager = BasePoolManager[Any, Any]

pytestmark = pytest.mark.usefixtures("nothing_unheard")


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: to a password it makes no difference."""
    return "asyncio", {"use_uvloop": False}


class Role:
    """A database role whose password rotates, and which gives out the current password."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self.name = f"rotating_{uuid4().hex[:12]}"
        self.password = ""
        self.asked = 0
        self.threads: set[int] = set()

    def dsn(self, *, password: str | None = None) -> str:
        """Return a DSN of the master alone."""
        parsed = Dsn.parse(dsn_through(self._cluster, self._cluster.master))
        login = self.name if password is None else f"{self.name}:{password}"
        return f"postgresql://{login}@{parsed.hosts[0]}/{parsed.dbname}"

    async def rotate(self) -> None:
        """Change the password."""
        self.password = f"se'cret\\{uuid4().hex}"
        exists = "DO $$ BEGIN CREATE ROLE {0} LOGIN; EXCEPTION WHEN duplicate_object THEN END $$"
        await self._cluster.master.sql(exists.format(self.name))
        quoted = self.password.replace("'", "''")
        await self._cluster.master.sql(f"ALTER ROLE {self.name} PASSWORD '{quoted}'")

    def give(self) -> str:
        """Give the password, as a function that may block."""
        self.asked += 1
        self.threads.add(threading.get_ident())
        return self.password

    async def give_in_loop(self) -> tuple[str, str]:
        """Give the user as well, as a coroutine function."""
        await asyncio.sleep(0)
        self.give()
        return self.name, self.password


@pytest.fixture
async def role(pg_cluster: LocalCluster) -> AsyncIterator[Role]:
    """A role with a password that nobody else knows."""
    made = Role(pg_cluster)
    await made.rotate()
    yield made
    await pg_cluster.master.sql(f"DROP ROLE {made.name}")


@asynccontextmanager
async def asking(kit: Kit, dsn: str, ask: Any, **more: Any) -> AsyncIterator[Manager]:
    kwargs = kit.sizes(1, 2)
    async with kit.manager(
        dsn, credentials=ask, refresh_delay=0.2, pool_factory_kwargs={**kwargs, **more}
    ) as manager:
        yield manager


@pytest.mark.parametrize("how", ["in a thread", "in the loop"])
async def test_old_connections_live_on_and_new_ones_have_the_new_password(
    kit: Kit, role: Role, pg_cluster: LocalCluster, how: str
) -> None:
    in_thread = how == "in a thread"
    dsn = role.dsn() if in_thread else role.dsn(password=str(uuid4())).replace(role.name, "nobody")
    ask = role.give if in_thread else role.give_in_loop
    async with asking(kit, dsn, ask) as manager:
        await manager.ready(1, 0)
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, "SELECT session_user") == role.name
            pid = await kit.pid(connection)
            before = role.asked
            assert before >= 2  # for the reserved connection and for one of the pool
            await role.rotate()
            async with manager.acquire_master() as another:
                assert await kit.pid(another) != pid
                assert role.asked == before + 1
            assert await kit.pid(connection) == pid
        async with manager.acquire_master() as connection:
            assert await kit.pid(connection)
            assert role.asked == before + 1  # an open connection asks for nothing
        # The monitor's connection is ended, too, and comes back with the new password.
        await end_those(pg_cluster.master, f"usename = '{role.name}'")
        async with manager.acquire_master(timeout=10) as connection:
            assert await kit.value(connection, "SELECT session_user") == role.name
        assert (threading.get_ident() in role.threads) is not in_thread


@pytest.mark.parametrize("how", ["a shared look-up", "a library's time limit"])
async def test_what_is_cancelled_in_it_fails_that_connect_alone(
    kit: Kit, role: Role, pg_cluster: LocalCluster, how: str
) -> None:
    """The look-up it awaits may be cancelled by someone else, or its task by a library."""
    cancelled = asyncio.Event()
    spoilt = False

    async def give() -> str:
        role.give()
        if spoilt:
            cancelled.set()
            if how == "a shared look-up":
                look_up = asyncio.get_running_loop().create_future()
                look_up.cancel()
                await look_up
            task = asyncio.current_task()
            assert task is not None
            task.cancel()  # and nothing takes that back
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                raise TimeoutError("the token service is slow") from None
        return role.password

    async with asking(kit, role.dsn(), give) as manager:
        await manager.ready(1, 0)
        spoilt = True
        # These are connects of the monitor and of the pool, which are refilled meanwhile.
        for _ in range(3):
            cancelled.clear()
            await end_those(pg_cluster.master, f"usename = '{role.name}'")
            async with asyncio.timeout(10):
                await cancelled.wait()
        with pytest.raises(NotAvailableError):
            await manager.acquire_master(timeout=0.3)
        spoilt = False
        async with manager.acquire_master(timeout=20) as connection:
            assert await kit.value(connection, "SELECT session_user") == role.name
        await end_those(pg_cluster.master, f"usename = '{role.name}'")  # the monitor notices
        async with manager.acquire_master(timeout=20) as connection:
            assert await kit.value(connection, "SELECT session_user") == role.name


async def test_its_failure_is_the_connects_and_is_named_without_a_secret(
    kit: Kit, role: Role
) -> None:
    failing = False

    def give() -> str:
        password = role.give()
        if failing:
            raise LookupError(f"the vault is sealed for {password}")
        return password

    async with asking(kit, role.dsn(), give) as manager:
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, "SELECT 1") == 1
            failing = True
            with pytest.raises(NotAvailableError, match="LookupError: the vault is sealed") as met:
                await manager.acquire_master(timeout=1)
            assert role.password not in str(met.value)
            assert await kit.value(connection, "SELECT 1") == 1
        failing = False
        async with manager.acquire_master(timeout=5), manager.acquire_master(timeout=5):
            pass


async def test_one_that_has_no_next_is_named_too(kit: Kit, role: Role) -> None:
    """asyncio's futures do not accept a StopIteration."""
    used_up = False

    def give() -> str:
        passwords = [] if used_up else [role.give()]
        return next(iter(passwords))

    async with (
        asking(kit, role.dsn(), give) as manager,
        manager.acquire_master() as connection,
    ):
        used_up = True
        with pytest.raises(NotAvailableError, match="RuntimeError: StopIteration was raised"):
            await manager.acquire_master(timeout=1)
        assert await kit.value(connection, "SELECT 1") == 1


async def test_one_that_does_not_return_costs_no_more_than_the_time_of_an_acquire(
    kit: Kit, role: Role
) -> None:
    go_on = threading.Event()
    hanging = False

    def give() -> str:
        if hanging:
            go_on.wait(20)
        return role.give()

    try:
        async with asking(kit, role.dsn(), give) as manager:
            async with manager.acquire_master() as connection:
                hanging = True
                began = asyncio.get_running_loop().time()
                with pytest.raises(NotAvailableError):
                    await manager.acquire_master(timeout=0.3)
                assert asyncio.get_running_loop().time() - began < 3
                # The event loop was not blocked, and the open connection still serves.
                assert await kit.value(connection, "SELECT 1") == 1
            hanging = False
            go_on.set()
            async with manager.acquire_master(timeout=10), manager.acquire_master(timeout=10):
                pass
    finally:
        go_on.set()


async def test_what_is_no_password_is_refused_at_once(kit: Kit, role: Role) -> None:
    for wrong in (7, None, b"secret", ("a", "b", "c"), (1, "x")):
        with pytest.raises(ConfigurationError, match="credentials must return a password") as met:
            async with asking(kit, role.dsn(), lambda wrong=wrong: wrong):
                pass
        assert "secret" not in str(met.value)
    text: Any = "secret"
    with pytest.raises(TypeError, match="credentials must be a callable"):
        kit.manager(role.dsn(), credentials=text)


async def test_the_arguments_own_user_and_password_give_way(kit: Kit, role: Role) -> None:
    more = kit.of_connections(user="nobody", password=str(uuid4()))
    async with (
        asking(kit, role.dsn(), role.give_in_loop, **more) as manager,
        manager.acquire_master(timeout=5) as connection,
    ):
        assert await kit.value(connection, "SELECT session_user") == role.name


async def test_a_wrong_password_is_refused_and_no_text_has_it(
    kit: Kit, role: Role, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    wrong = "tr0ub4dor&3-and-more"
    manager = kit.manager(role.dsn(), credentials=lambda: wrong)
    with pytest.raises(kit.refused_login, match="password authentication failed") as met:
        await manager.ready(1, 0, timeout=5)
    assert wrong not in f"{met.value!r}{manager.metrics()}{caplog.text}{manager!r}"
    await manager.close()


class _PortOfServer(SqlDiscovery):
    """Asks a server for its port, and so tells what the DSN does not."""

    _query = "SELECT inet_server_port() AS port"

    def _read(self, row: Mapping[str, Any]) -> Discovered:
        return Discovered(HostSpec("localhost", row["port"]))


async def test_the_connection_by_which_hosts_are_asked_for_has_them_too(
    kit: Kit, role: Role
) -> None:
    async with (
        kit.manager(role.dsn(), credentials=role.give, discovery=_PortOfServer()) as manager,
    ):
        await until(lambda: any("localhost" in str(n.host) for n in manager.metrics().nodes))
        async with manager.acquire_master(timeout=10) as connection:
            assert await kit.value(connection, "SELECT session_user") == role.name
