"""Load control in the short form of the chaos suite: after each fault every permit is back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chaos.load_control import WithLoadControl
from chaos.run import perform
from chaos.scenarios import SCENARIOS
from hasql.testing import LocalCluster
from testbed.kits import KITS, THREAD_KITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.kits.base import LoadKit


@pytest.fixture
def anyio_backend() -> object:
    """Play on one event loop: other tests run the drivers on each loop in turn."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster whose commits wait for a replica, so that nothing acknowledged may be missing."""
    with LocalCluster(synchronous=True) as cluster:
        yield cluster


# `python -m chaos --load-control` plays the other faults, and to all drivers.
@pytest.mark.parametrize("kits", [KITS[:2], THREAD_KITS[:2]], ids=["tasks", "threads"])
@pytest.mark.parametrize("name", ["freeze", "blackout"])
async def test_11_after_a_fault_every_permit_is_back_and_all_is_as_without(
    name: str, kits: list[LoadKit], cluster: LocalCluster
) -> None:
    outcomes = await perform(SCENARIOS[name], cluster, kits, short=True, of_class=WithLoadControl)
    assert {x.driver: x.problems for x in outcomes if x.problems} == {}
