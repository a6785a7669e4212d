"""The chaos suite in its short form for threads: some faults, once for all drivers at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chaos.run import perform
from chaos.scenarios import SCENARIOS
from hasql.testing import LocalCluster
from testbed.kits import THREAD_KITS
from tests.lease_scenes import check_no_lease_is_wrong

if TYPE_CHECKING:
    from collections.abc import Iterator

_LATE = 1.0
"""By how many seconds a busy machine may exceed the limit that an idle one keeps."""

#: One of each kind of fault. `python -m chaos` plays all of them to threads as well.
_NAMES = ("crash", "freeze", "split", "blackout", "exhausted", "full")
_PASSAGES = ("haproxy", "haproxy-uncut", "service")


@pytest.fixture
def anyio_backend() -> object:
    """Play on one event loop: the stage runs there, and nothing of hasql does."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster whose commits wait for a replica, so that nothing acknowledged may be missing."""
    with LocalCluster(synchronous=True) as cluster:
        yield cluster


@pytest.mark.parametrize("name", _NAMES)
async def test_a_fault_costs_threads_little_and_nothing_that_was_acknowledged(
    name: str, cluster: LocalCluster
) -> None:
    scenario = SCENARIOS[name]
    outcomes = await perform(scenario, cluster, THREAD_KITS, short=True)
    assert {x.driver: x.problems for x in outcomes if x.problems} == {}
    assert {x.loop for x in outcomes} == {"threads"}
    added = {x.driver: x.added for x in outcomes if x.added is not None}
    assert max(added.values(), default=0) < (scenario.goal.added or 0) + _LATE, added


@pytest.mark.parametrize("name", _PASSAGES)
async def test_no_lease_of_a_master_is_on_another_server_behind_a_middle_man(
    name: str, cluster: LocalCluster
) -> None:
    await check_no_lease_is_wrong(name, cluster, THREAD_KITS)
