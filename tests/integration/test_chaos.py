"""The chaos suite in its short form: each fault once, for all drivers of this environment at once.

`make chaos` plays the faults to one driver at a time and for longer, and measures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chaos.leases import LEASE_SCENES
from chaos.names import NAME_SCENES, play_names
from chaos.run import perform, why_not
from chaos.scenarios import SCENARIOS
from hasql.testing import LocalCluster
from testbed.kits import KITS
from tests.lease_scenes import check_no_lease_is_wrong

if TYPE_CHECKING:
    from collections.abc import Iterator

_LATE = 1.0
"""By how many seconds a busy machine may exceed the limit that an idle one keeps."""

_NAMES = tuple(name for name, scenario in SCENARIOS.items() if scenario.brief)
_PASSAGES = tuple(LEASE_SCENES)
_MOVES = tuple(NAME_SCENES)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Play each scenario on one event loop, in turn: on both it would take twice as long."""
    uvloop = (*_NAMES, *_PASSAGES, *_MOVES).index(request.getfixturevalue("name")) % 2 == 1
    return "asyncio", {"use_uvloop": uvloop}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster whose commits wait for a replica, so that nothing acknowledged may be missing."""
    with LocalCluster(synchronous=True) as cluster:
        yield cluster


@pytest.mark.parametrize("name", _NAMES)
async def test_a_fault_costs_little_and_nothing_that_was_acknowledged(
    name: str, cluster: LocalCluster
) -> None:
    scenario = SCENARIOS[name]
    if reason := why_not(scenario):
        pytest.skip(reason)
    outcomes = await perform(scenario, cluster, KITS, short=True)
    assert {x.driver: x.problems for x in outcomes if x.problems} == {}
    added = {x.driver: x.added for x in outcomes if x.added is not None}
    assert max(added.values(), default=0) < (scenario.goal.added or 0) + _LATE, added


@pytest.mark.parametrize("name", _PASSAGES)
async def test_no_lease_of_a_master_is_on_another_server_behind_a_middle_man(
    name: str, cluster: LocalCluster
) -> None:
    await check_no_lease_is_wrong(name, cluster, KITS)


@pytest.mark.parametrize("name", _MOVES)
async def test_names_move_and_fail_to_be_told_and_no_operation_fails_or_is_late(
    name: str, cluster: LocalCluster
) -> None:
    outcomes = await play_names(NAME_SCENES[name], cluster, KITS, short=True)
    assert {x.driver: x.problems for x in outcomes if x.problems} == {}
