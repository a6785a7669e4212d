"""Units of work in the chaos suite's short form: an application that uses `run` sees no error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chaos.application import Application
from chaos.commits import COMMIT_SCENES
from chaos.plays import chosen
from chaos.run import perform
from chaos.scenarios import SCENARIOS
from chaos.soak import SOAK
from chaos.units import UnitsOfWork
from hasql.testing import LocalCluster
from testbed.kits import KITS, THREAD_KITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from testbed.kits.base import LoadKit

#: One of each kind of fault. `make chaos` plays all of them.
_NAMES = ("switchover", "freeze", "blackout")

#: Kits for tasks and kits for threads. Not every environment has the latter.
_KITS: dict[str, Sequence[LoadKit]] = {"tasks": KITS}
if THREAD_KITS:
    _KITS["threads"] = THREAD_KITS


@pytest.fixture
def anyio_backend() -> object:
    """Play on one event loop: other tests run the drivers on each loop in turn."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster whose commits wait for a replica, so that nothing acknowledged may be missing."""
    with LocalCluster(synchronous=True) as cluster:
        yield cluster


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("kits", _KITS.values(), ids=_KITS)
async def test_an_application_that_uses_run_sees_no_error_in_a_fault_that_ends(
    name: str, kits: Sequence[LoadKit], cluster: LocalCluster
) -> None:
    outcomes = await perform(SCENARIOS[name], cluster, kits, short=True, of_class=UnitsOfWork)
    assert {x.driver: x.problems for x in outcomes if x.problems} == {}
    # In a switchover every worker may be between two units at the moment when the master stops.
    if name != "switchover":
        assert sum(x.retried + x.found for x in outcomes) > 0
    assert sum(x.unknown for x in outcomes) == sum(x.failed for x in outcomes)


def test_make_chaos_plays_every_fault_to_run_and_loses_masters_at_commit() -> None:
    plays = {play.name for play in chosen((), Application)}
    assert plays >= {f"{name} under run" for name in SCENARIOS}
    assert plays >= {*SCENARIOS, *COMMIT_SCENES}
    assert SOAK.name not in plays, "it takes its time, and has to be asked for"
    assert {play.name for play in chosen((), UnitsOfWork)} == {f"{x} under run" for x in SCENARIOS}
    assert [play.scene for play in chosen(["soak"], Application)] == [SOAK]
