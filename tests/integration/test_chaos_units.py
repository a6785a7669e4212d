"""Units of work in the chaos suite's short form: an application that uses `run` sees no error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chaos.run import perform
from chaos.scenarios import SCENARIOS
from chaos.units import UnitsOfWork
from hasql.testing import LocalCluster
from testbed.kits import KITS, THREAD_KITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.kits.base import LoadKit

#: Of each kind of fault one: `python -m chaos --units` plays the rest.
_NAMES = ("switchover", "freeze", "blackout")


@pytest.fixture
def anyio_backend() -> object:
    """Play on one of the event loops: drivers take their turns elsewhere."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """One whose commits wait for a replica, so that nothing acknowledged may be missing."""
    with LocalCluster(synchronous=True) as cluster:
        yield cluster


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("kits", [KITS, THREAD_KITS], ids=["tasks", "threads"])
async def test_an_application_that_uses_run_sees_no_error_in_a_fault_that_ends(
    name: str, kits: list[LoadKit], cluster: LocalCluster
) -> None:
    outcomes = await perform(SCENARIOS[name], cluster, kits, short=True, of_class=UnitsOfWork)
    assert {x.driver: x.problems for x in outcomes if x.problems} == {}
