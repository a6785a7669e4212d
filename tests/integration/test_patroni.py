"""A cluster that Patroni runs is followed by every driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from testbed.kits import KITS
from testbed.patroni import PatroniCluster, PatroniUnavailableError, Programs
from testbed.patroni_scenes import Fault, perform

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("nothing_unheard")

_TASKS = 2
"""Writers, and readers, of each driver: the drivers are at it all at once."""

_ASYNCIO = ("asyncio", {"use_uvloop": False})
_UVLOOP = ("asyncio", {"use_uvloop": True})


@pytest.fixture(scope="module")
def patroni() -> Iterator[PatroniCluster]:
    try:
        programs = Programs.find()
    except PatroniUnavailableError as error:
        pytest.skip(str(error))
    with PatroniCluster(programs) as cluster:
        yield cluster


# A dead leader's lock lasts for 20 seconds, so that each fault has but one event loop.
@pytest.mark.parametrize(
    ("fault", "anyio_backend"),
    [
        pytest.param(Fault.SWITCHOVER, _ASYNCIO, id="switchover-asyncio"),
        pytest.param(Fault.SWITCHOVER, _UVLOOP, id="switchover-uvloop"),
        pytest.param(Fault.SERVER_KILLED, _ASYNCIO, id="server killed-asyncio"),
        pytest.param(Fault.LEADER_KILLED, _UVLOOP, id="leader killed-uvloop"),
    ],
)
async def test_a_new_leader_is_followed_at_once_and_nothing_acknowledged_is_lost(
    patroni: PatroniCluster, fault: Fault
) -> None:
    reports = await perform(patroni, KITS, fault, _TASKS)
    assert reports.keys() == {kit.name for kit in KITS}
    for driver, report in reports.items():
        assert report.problems == (), driver
        assert report.rows.present == report.rows.acknowledged, driver
        assert report.most_failures_of_one_task <= 1, (driver, report.errors)
        assert report.outage is not None, driver
        assert 0 <= report.outage.added_by_hasql < 1, driver
