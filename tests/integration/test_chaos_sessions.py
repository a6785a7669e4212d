"""Sessions that route themselves, in the chaos suite's short form: no update of theirs is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from chaos.run import perform
from chaos.scenarios import SCENARIOS
from chaos.sessions import RoutedSessions
from hasql.testing import LocalCluster
from testbed.kits import KITS, THREAD_KITS

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODULES = {"hasql.asyncsqlalchemy", "hasql.sync.sqlalchemy"}


@pytest.fixture
def anyio_backend() -> object:
    """Play on one event loop: other tests run the drivers on each loop in turn."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster whose commits wait for a replica, so that nothing acknowledged may be missing."""
    with LocalCluster(synchronous=True) as cluster:
        yield cluster


async def test_sessions_that_route_themselves_lose_nothing_in_a_crash(
    cluster: LocalCluster,
) -> None:
    kits: list[Any] = [kit for kit in (*KITS, *THREAD_KITS) if kit.module in _MODULES]
    outcomes = await perform(SCENARIOS["crash"], cluster, kits, short=True, of_class=RoutedSessions)
    assert len(outcomes) == 4
    # How long a fault is felt is checked by the other tests of the suite.
    assert [(x.lost, x.wrong, x.failed) for x in outcomes] == [(0, 0, 0)] * 4
    problems = [problem for outcome in outcomes for problem in outcome.problems]
    assert [x for x in problems if "lost" in x or "error" in x] == []
