"""Every public method, used from a foreign or closed event loop, refuses or does no harm.

13. A manager serves only the event loop of its first use, and its refusals say so clearly.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from hasql import WrongEventLoopError
from testbed.fake_driver import FakeManager, fake_cluster, manager_of
from testbed.fake_threads import ThreadManager

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from hasql.sync.base import BaseSyncPoolManager


class Scene:
    """A manager that was started in one event loop, with a lease out."""

    manager: FakeManager
    connection: Any
    pool: Any

    async def begin(self) -> None:
        """Start the manager in the running loop."""
        self.manager = manager_of(fake_cluster("a master", "b replica"))
        await self.manager.ready()
        self.connection = await self.manager.acquire()
        [self.pool] = await self.manager.get_master_pools()

    async def end(self) -> None:
        """Close the manager in the running loop."""
        await self.manager.terminate()


@contextmanager
def in_a_loop_that_runs(scene: Scene) -> Iterator[None]:
    """Start the manager in a loop that runs in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(scene.begin(), loop).result(10)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(scene.end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def in_a_loop_that_is_closed(scene: Scene) -> Iterator[None]:
    """Start the manager in a loop, and close that loop without closing the manager."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(scene.begin())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    yield


async def enter(scene: Scene) -> None:
    async with scene.manager:
        pass


async def work(connection: Any) -> None:
    del connection


def take(lease: Any) -> Awaitable[Any]:
    async def one() -> None:
        async with lease:
            pass

    return one()


#: Uses that need the manager's own loop.
REFUSED: dict[str, Callable[[Scene], Any]] = {
    "__aenter__": enter,
    "__aexit__": lambda s: s.manager.__aexit__(None, None, None),
    "accept_timeline": lambda s: s.manager.accept_timeline(),
    "acquire": lambda s: take(s.manager.acquire()),
    "acquire_from_pool": lambda s: take(s.manager.acquire_from_pool(s.pool)),
    "acquire_master": lambda s: take(s.manager.acquire_master()),
    "acquire_replica": lambda s: take(s.manager.acquire_replica()),
    "close": lambda s: s.manager.close(),
    "drain": lambda s: s.manager.drain(),
    "get_master_pools": lambda s: s.manager.get_master_pools(),
    "get_pool": lambda s: s.manager.get_pool(read_only=False),
    "get_replica_pools": lambda s: s.manager.get_replica_pools(),
    "ready": lambda s: s.manager.ready(),
    "register_connection": lambda s: s.manager.register_connection(s.connection, s.pool),
    "release": lambda s: s.manager.release(s.connection),
    "release_to_pool": lambda s: s.manager.release_to_pool(s.connection, s.pool),
    "resize": lambda s: s.manager.resize(max_size=5),
    "run": lambda s: s.manager.run(work),
    "terminate": lambda s: s.manager.terminate(),
    "wait_all_ready": lambda s: s.manager.wait_all_ready(),
    "wait_masters_ready": lambda s: s.manager.wait_masters_ready(1),
    "wait_next_pool_check": lambda s: s.manager.wait_next_pool_check(),
    "wait_replicas_ready": lambda s: s.manager.wait_replicas_ready(1),
}
#: Uses that return what is known, or take note of a wish, and touch neither loop nor socket.
ANSWERED: dict[str, Callable[[Scene], Any]] = {
    "__iter__": lambda s: list(s.manager),
    "add_listener": lambda s: s.manager.add_listener(print),
    "available_pool_count": lambda s: s.manager.available_pool_count,
    "balancer": lambda s: s.manager.balancer,
    "category": lambda s: s.manager.category(OSError()),
    "closed": lambda s: s.manager.closed,
    "closing": lambda s: s.manager.closing,
    "dsn": lambda s: s.manager.dsn,
    "get_last_response_time": lambda s: s.manager.get_last_response_time(s.pool),
    "get_pool_freesize": lambda s: s.manager.get_pool_freesize(s.pool),
    "host": lambda s: s.manager.host(s.pool),
    "is_connection_closed": lambda s: s.manager.is_connection_closed(s.connection),
    "leases": lambda s: s.manager.leases(),
    "master_pool_count": lambda s: s.manager.master_pool_count,
    "metrics": lambda s: s.manager.metrics(),
    "pool_factory_kwargs": lambda s: s.manager.pool_factory_kwargs,
    "pool_is_master": lambda s: s.manager.pool_is_master(s.pool),
    "pool_is_replica": lambda s: s.manager.pool_is_replica(s.pool),
    "pools": lambda s: s.manager.pools,
    "refresh_delay": lambda s: s.manager.refresh_delay,
    "refresh_timeout": lambda s: s.manager.refresh_timeout,
    "remove_listener": lambda s: s.manager.remove_listener(print),
    "replica_pool_count": lambda s: s.manager.replica_pool_count,
    "retriable": lambda s: s.manager.retriable(OSError()),
    "set_tracer": lambda s: s.manager.set_tracer(None),
    "still_fits": lambda s: s.manager.still_fits(s.connection),
}
#: Methods of the class, which make a manager.
OF_THE_CLASS = {"from_settings"}


def public(face: type) -> set[str]:
    """Return the names of all that a pool manager offers."""
    named = {name for name in dir(face) if not name.startswith("_")}
    return named | {"__aenter__", "__aexit__", "__enter__", "__exit__", "__iter__"} & {*dir(face)}


def test_13_no_method_is_forgotten_here() -> None:
    assert not REFUSED.keys() & ANSWERED.keys()
    known = {*REFUSED, *ANSWERED, *OF_THE_CLASS}
    base = FakeManager.__mro__[1]
    assert public(base) == known


async def outcome(call: Callable[[Scene], Any], scene: Scene) -> BaseException | None:
    try:
        made = call(scene)
        if hasattr(made, "__await__"):
            async with asyncio.timeout(5):
                await made
    except Exception as error:  # noqa: BLE001  # the error is the result
        return error
    return None


@pytest.mark.parametrize("where", [in_a_loop_that_runs, in_a_loop_that_is_closed])
def test_13_another_loop_is_refused_each_time_and_harms_nothing(
    where: Callable[[Scene], Any],
) -> None:
    scene = Scene()
    with where(scene):

        async def main() -> dict[str, list[BaseException | None]]:
            return {
                name: [await outcome(call, scene) for _ in range(3)]
                for name, call in {**REFUSED, **ANSWERED}.items()
            }

        heard = asyncio.run(main())
        again = asyncio.run(main())  # in one more loop
        for name in REFUSED:
            for error in (*heard[name], *again[name]):
                assert isinstance(error, WrongEventLoopError), (name, error)
                assert "event loop" in str(error), name
        for name in ANSWERED:
            assert heard[name] == again[name] == [None] * 3, name
        assert not scene.manager.closed  # none of the calls has closed it
        if where is in_a_loop_that_runs:
            assert scene.manager.is_connection_closed(scene.connection) is False


def test_13_a_thread_without_a_loop_is_refused_too() -> None:
    scene = Scene()
    with in_a_loop_that_runs(scene):
        for name, call in REFUSED.items():
            with pytest.raises(WrongEventLoopError):  # plain functions raise at once
                made = call(scene)
                work = made if hasattr(made, "send") else made.__await__()
                with suppress(StopIteration):
                    work.send(None)
                pytest.fail(name)
        for call in ANSWERED.values():
            call(scene)


# Any thread may use any method


def uses_of_threads(manager: BaseSyncPoolManager[Any, Any]) -> dict[str, Callable[[], Any]]:
    """Return a use of each method of a manager for threads, in an order that works."""

    def acquire(lease: Any) -> None:
        with lease:
            pass

    def registered() -> None:
        connection = manager.getconn()
        manager.register_connection(connection, pool())
        manager.is_connection_closed(connection)
        manager.still_fits(connection)
        manager.release_to_pool(connection, pool())

    def pool() -> Any:
        return manager.get_master_pools()[0]

    together = dict.fromkeys(
        ("is_connection_closed", "register_connection", "release_to_pool", "still_fits"), registered
    )
    of_pool = {
        name: lambda name=name: getattr(manager, name)(pool())
        for name in (
            "get_last_response_time",
            "get_pool_freesize",
            "host",
            "pool_is_master",
            "pool_is_replica",
        )
    }
    return {
        **together,
        **of_pool,
        "__iter__": lambda: list(manager),
        "accept_timeline": manager.accept_timeline,
        "acquire": lambda: acquire(manager.acquire()),
        "acquire_from_pool": lambda: acquire(manager.acquire_from_pool(pool())),
        "acquire_master": lambda: acquire(manager.acquire_master()),
        "acquire_replica": lambda: acquire(manager.acquire_replica()),
        "add_listener": lambda: manager.add_listener(print),
        "remove_listener": lambda: manager.remove_listener(print),
        "category": lambda: manager.category(OSError()),
        "get_master_pools": manager.get_master_pools,
        "get_pool": lambda: manager.get_pool(read_only=False),
        "get_replica_pools": manager.get_replica_pools,
        "getconn": lambda: manager.putconn(manager.getconn()),
        "putconn": lambda: manager.putconn(manager.getconn()),
        "leases": manager.leases,
        "metrics": manager.metrics,
        "ready": manager.ready,
        "resize": lambda: manager.resize(max_size=3),
        "retriable": lambda: manager.retriable(OSError()),
        "run": lambda: manager.run(lambda _: None),
        "set_tracer": lambda: manager.set_tracer(None),
        "wait_all_ready": manager.wait_all_ready,
        "wait_masters_ready": lambda: manager.wait_masters_ready(1),
        "wait_next_pool_check": manager.wait_next_pool_check,
        "wait_replicas_ready": lambda: manager.wait_replicas_ready(1),
        "__enter__": lambda: manager,
        "drain": manager.drain,
        "close": manager.close,
        "terminate": manager.terminate,
        "__exit__": lambda: manager.__exit__(None, None, None),
    }


def test_13_any_thread_may_use_any_method() -> None:
    manager = ThreadManager(fake_cluster("a master", "b replica"))
    manager.ready()  # in this thread
    uses = uses_of_threads(manager)
    properties = {
        name
        for name in public(ThreadManager.__mro__[1])
        if isinstance(getattr(ThreadManager, name, None), property)
    }
    assert {*uses, *properties, *OF_THE_CLASS} == public(ThreadManager.__mro__[1])
    try:
        for use in uses.values():
            with ThreadPoolExecutor(1) as another:  # a new thread for each
                another.submit(use).result(10)
        for name in properties:
            with ThreadPoolExecutor(1) as another:
                another.submit(getattr, manager, name).result(10)
    finally:
        manager.terminate()
