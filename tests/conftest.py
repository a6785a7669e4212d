"""Serves all tests: the event loops that they run on, and their order among the workers."""

import gc
import signal
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hasql.testing._ports import free_ports

pytest_plugins = ["tests.middlemen"]
if find_spec("flask"):  # Flask is not installed in every environment
    pytest_plugins.append("tests.flask_scene")

#: Files whose tests share servers that are costly to start: one worker runs all of such a file.
_TOGETHER = (
    "test_chaos_commits.py",
    "test_chaos_load_control.py",
    "test_chaos_units.py",
    "test_commit_outcomes.py",
    "test_dns_engine.py",
    "test_dns_engine_async.py",
    "test_dns_engine_tls.py",
    "test_drivers_names.py",
    "test_drivers_tls.py",
    "test_local_cluster.py",
    "test_name_discovery.py",
    "test_patroni.py",
    "test_psycopg_cancel.py",
    "test_sync_names.py",
    "test_sync_tls.py",
)
#: Files that run first: each takes long by itself, or measures time and needs a machine that is
#: not busy yet. Files that run last keep a core busy.
_FIRST = ("test_chaos.py", "test_patroni.py", "test_typing.py", "test_storm.py")
_LAST = (
    "test_drivers_pgbouncer.py",
    "test_docs.py",
    "test_web.py",
    "test_web_shutdown.py",
    "test_demo.py",
    "test_fencing.py",
    "test_several_servers.py",
    "test_local_cluster.py",
    "test_drivers_haproxy.py",
    "test_drivers_failover.py",
)

#: The file whose tests this worker is running, under "is".
_file: dict[str, Path] = {}


def pytest_configure() -> None:
    """Hear interrupts, here and in the programs that tests start.

    A shell makes the processes that it starts in the background ignore them.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave each test the loops that it is for; tell workers which tests go together, and when."""
    if left := {item for item in items if _is_run_on_the_other_loop(item)}:
        config.hook.pytest_deselected(items=[*left])
        items[:] = [item for item in items if item not in left]
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        if item.path.name in _TOGETHER:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=_turn)


def _is_run_on_the_other_loop(item: pytest.Item) -> bool:
    """Tell whether a test that needs only one loop, no matter which, is run on the other one."""
    if item.get_closest_marker("loops_in_turn") is None or not isinstance(item, pytest.Function):
        return False
    params: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    if "anyio_backend" not in params:
        return False
    _, options = params["anyio_backend"]
    of_both = item.nodeid.replace("asyncio", "").replace("uvloop", "")
    takes_uvloop = zlib.crc32(of_both.encode()) % 2 == 1
    uses_uvloop: bool = options["use_uvloop"]
    return uses_uvloop is not takes_uvloop


def pytest_collection_finish() -> None:
    """Keep what exists by now, thousands of tests and all drivers, out of garbage collections."""
    _leave_out_what_there_is()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """At the first test of a file, keep out as well what files have brought since the last time.

    That is modules, and what Python and pytest keep. By then nothing holds what the last test of
    the file before has used. That matters: garbage that is kept out is never found later.
    """
    if _file.setdefault("is", item.path) != item.path:
        _file["is"] = item.path
        _leave_out_what_there_is()


def _leave_out_what_there_is() -> None:
    """Make the garbage collector skip all objects that exist by now.

    Many tests run the collector to look for what they have left behind. Going through all other
    objects too took a quarter of a second each time at the start of a run, and three quarters at
    its end.
    """
    gc.collect()
    gc.freeze()


def _turn(item: pytest.Item) -> tuple[int, int]:
    name, directory = item.path.name, item.path.parent.name
    if name in _FIRST:
        return 0, _FIRST.index(name)
    if directory == "integration":
        return (3, _LAST.index(name)) if name in _LAST else (2, 0)
    return 1, 0


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Run each async test on both event loops."""
    return request.param


@pytest.fixture
def unused_ports() -> tuple[int, int]:
    """Two ports of the loopback interface on which nothing listens, and no other worker will."""
    one, other = free_ports(2)
    return one, other
