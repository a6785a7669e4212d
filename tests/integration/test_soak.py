"""A short soak: 20,000 leases with every feature on, hosts that fail, and leases that leak."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chaos.soak import play_soak
from hasql.testing import LocalCluster
from testbed.kits import KITS, THREAD_KITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.kits.base import LoadKit

_KITS: list[LoadKit] = [kit for kit in (*KITS, *THREAD_KITS) if kit.name.startswith("asyncpg")][:1]
_KITS += [kit for kit in THREAD_KITS if kit.name == "sync-psycopg3"]


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: what this test asks is the same on any."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster whose hosts may fail."""
    with LocalCluster() as cluster:
        yield cluster


@pytest.mark.parametrize("soaked", _KITS, ids=[kit.name for kit in _KITS])
async def test_nothing_grows_and_no_session_is_too_many(
    soaked: LoadKit, cluster: LocalCluster
) -> None:
    (outcome,) = await play_soak(cluster, [soaked], short=True)
    assert outcome.problems == ()
    assert outcome.leases >= 20_000
    assert outcome.overdue > 0
