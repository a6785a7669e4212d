"""Commit outcomes in short form: the master is lost at COMMIT, ten times (invariant 20).

`make chaos` loses it 200 times. All drivers of the environment, for tasks and for threads, work at
the same time; aiopg_sa and asyncpgsa do so in an environment of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chaos.commits import COMMIT_SCENES, play_commits
from hasql.testing import LocalCluster
from testbed.kits import KITS, THREAD_KITS

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Each scenario is played twice.
_NAMES = (
    "commit-killed",
    "commit-twice",
    "commit-restarts",
    "commit-replaced",
    "commit-unheard",
    "commit-fatal",
)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Play each scenario on one event loop, in turn."""
    uvloop = _NAMES.index(request.getfixturevalue("name")) % 2 == 1
    return "asyncio", {"use_uvloop": uvloop}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(synchronous=True) as cluster:
        yield cluster


@pytest.mark.parametrize("name", _NAMES)
async def test_20_no_outcome_is_wrong_and_nothing_is_done_twice(
    name: str, cluster: LocalCluster
) -> None:
    kits = [*KITS, *THREAD_KITS]
    outcomes = await play_commits(COMMIT_SCENES[name], cluster, kits, short=True)
    assert {x.driver: x.problems for x in outcomes if x.problems} == {}
    assert sum(x.found + x.unknown for x in outcomes) > 0, "no answer to COMMIT was lost"
    if name in {"commit-unheard", "commit-fatal"}:  # these never stop the server
        assert {x.driver: x.unknown for x in outcomes if x.unknown} == {}
