"""Fixtures that the tests on real servers share: the drivers, a table, a pool manager."""

from __future__ import annotations

import gc
import zlib
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from testbed.scene import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit


#: Drivers without code of their own for an event loop: SQLAlchemy has none, and aiopg.sa and
#: asyncpgsa wrap the pools and connections of aiopg and asyncpg. The other drivers run on both
#: loops.
_ON_ANOTHER_DRIVER = {"aiopg_sa", "asyncpgsa", "sqlalchemy-asyncpg", "sqlalchemy-psycopg"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With drivers that have no code for an event loop, run a test for both loops on one of them.

    Tests and drivers alternate: one driver runs a test on asyncio, another runs it on uvloop.
    """
    if left := {item for item in items if _is_run_on_the_other_loop(item)}:
        config.hook.pytest_deselected(items=[*left])
        items[:] = [item for item in items if item not in left]


def _is_run_on_the_other_loop(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    params: dict[str, Any] = item.callspec.params
    kit = params["hooked"][0] if "hooked" in params else params.get("kit")
    if kit is None or kit.name not in _ON_ANOTHER_DRIVER or "anyio_backend" not in params:
        return False
    takes_uvloop = zlib.crc32(f"{item.originalname} {kit.name}".encode()) % 2 == 1
    _, options = params["anyio_backend"]
    return options["use_uvloop"] is not takes_uvloop


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that ask for a `kit` with each driver of this environment, for `hooked` with hooks.

    A `sync_kit` is a kit of `hasql.sync`. With a `filling_sync_kit` the pool keeps a minimum of
    connections by itself, and with a `resetting_sync_kit` it runs a hook on a connection that is
    given back. A `sync_hooked` is a sync kit with one of its hooks.
    """
    if "kit" in metafunc.fixturenames:
        # Imported here because it imports all drivers, and some tests run without them.
        from testbed.kits import KITS

        metafunc.parametrize("kit", KITS, ids=[kit.name for kit in KITS])
    _parametrize_threads(metafunc)
    if "hooked" in metafunc.fixturenames:
        from testbed.kits import KITS  # as above

        cases = [(kit, name) for kit in KITS for name in _hooks(kit, metafunc.function.__name__)]
        metafunc.parametrize("hooked", cases, ids=[f"{kit.name}-{name}" for kit, name in cases])


def _parametrize_threads(metafunc: pytest.Metafunc) -> None:
    if not any("sync_" in name for name in metafunc.fixturenames):
        return
    from testbed.sync_kits import SYNC_KITS  # as above

    kits = {
        "sync_kit": SYNC_KITS,
        "filling_sync_kit": [kit for kit in SYNC_KITS if kit.min_keyword is not None],
        "resetting_sync_kit": [kit for kit in SYNC_KITS if kit.reset_hook(print)],
    }
    for name in kits.keys() & {*metafunc.fixturenames}:
        metafunc.parametrize(name, kits[name], ids=[kit.name for kit in kits[name]])
    if "sync_hooked" in metafunc.fixturenames:
        cases = [(kit, hook) for kit in SYNC_KITS for hook in kit.hooks(print)]
        ids = [f"{kit.name}-{hook}" for kit, hook in cases]
        metafunc.parametrize("sync_hooked", cases, ids=ids)


def _hooks(kit: Kit, test: str) -> list[str]:
    """Name the driver's hooks that a test is about: those of an acquire or those of a release."""

    async def none(_: object) -> None: ...

    if "release" in test:
        return [] if kit.reset_hook(none) is None else ["reset"]
    return list(kit.hooks(none))


@pytest.fixture
async def table(pg_cluster: LocalCluster) -> Table:
    """An empty table on every node."""
    name = f"t_{uuid4().hex}"
    await pg_cluster.master.sql(f"CREATE TABLE {name} (i int); GRANT ALL ON {name} TO app")
    return Table(name)


@pytest.fixture
def application() -> str:
    """A name under which a test's sessions can be counted."""
    return f"app_{uuid4().hex}"


@pytest.fixture
def nothing_unheard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail if an exception was left for asyncio to report, for example that of a forgotten task."""
    yield
    gc.collect()
    for when in ("setup", "call", "teardown"):
        said = [x.getMessage() for x in caplog.get_records(when) if x.name == "asyncio"]
        # asyncpg reports a transaction that was left open in the same way. That is not a failure.
        assert [x for x in said if not x.startswith("Resetting connection with an active")] == []


@pytest.fixture
async def manager(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> AsyncIterator[BasePoolManager[Any, Any]]:
    """A manager of all nodes, with two connections on each."""
    async with kit.manager(
        f"{pg_cluster.dsn}?application_name={application}",
        refresh_delay=0.2,
        refresh_timeout=2,  # on a busy machine, servers answer late without being down
        pool_factory_kwargs=kit.sizes(1, 2),
    ) as manager:
        await manager.ready(1, 2)
        yield manager
