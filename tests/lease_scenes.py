"""Plays scenes of leases behind middle men, in the short form that tests use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.leases import LEASE_SCENES, play_leases
from tests.middlemen import needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hasql.testing import LocalCluster
    from testbed.kits.base import LoadKit

__all__ = ("check_no_lease_is_wrong",)


async def check_no_lease_is_wrong(
    name: str, cluster: LocalCluster, kits: Sequence[LoadKit]
) -> None:
    """Play the short form of a scene to drivers; none may meet a wrong server, or hang."""
    scene = LEASE_SCENES[name]
    if scene.program is not None:
        needs(scene.program)
    outcomes = await play_leases(scene, cluster, kits, short=True)
    assert sum(x.leases for x in outcomes) >= 500
    problems = {x.driver: x.problems for x in outcomes if x.problems}
    assert not problems, problems  # pytest does not rewrite assertions in this module
