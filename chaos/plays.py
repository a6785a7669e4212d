"""Plays: which scenes are played, and to what kind of application."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from chaos.application import Application
from chaos.commits import COMMIT_SCENES, CommitScene
from chaos.leases import LEASE_SCENES
from chaos.names import NAME_SCENES, NameScene
from chaos.scenarios import SCENARIOS, Scenario
from chaos.soak import SOAK
from chaos.storm import STORM
from chaos.units import UnitsOfWork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chaos.leases import LeaseScene
    from chaos.soak import SoakScene
    from chaos.storm import StormScene
    from testbed.kits.base import LoadKit

    AnyScene: TypeAlias = Scenario | LeaseScene | NameScene | StormScene | CommitScene | SoakScene

__all__ = ("SCENES", "AnyScene", "Play", "chosen")

SCENES: dict[str, AnyScene] = {
    **SCENARIOS,
    **LEASE_SCENES,
    **NAME_SCENES,
    STORM.name: STORM,
    **COMMIT_SCENES,
    SOAK.name: SOAK,
}


@dataclass(frozen=True, slots=True)
class Play:
    """A scene, and the kind of application that its fault happens to."""

    scene: AnyScene
    application: type[Application] = Application

    @property
    def name(self) -> str:
        uses = self.application.uses
        return self.scene.name if uses == Application.uses else f"{self.scene.name} under {uses}"

    def groups(self, kits: Sequence[LoadKit]) -> list[Sequence[LoadKit]]:
        """Return the groups of drivers that it is played to at the same time."""
        if self.application is UnitsOfWork:
            # Tasks and threads separately: threads take the interpreter from the event loop.
            kinds = itertools.groupby(kits, lambda kit: kit.module.startswith("hasql.sync."))
            return [list(group) for _, group in kinds]
        of_names = isinstance(self.scene, NameScene) and self.scene.together
        if of_names or isinstance(self.scene, CommitScene):
            return [kits]
        return [[kit] for kit in kits]


def chosen(asked: Sequence[str], application: type[Application]) -> list[Play]:
    """Return what to play to such an application: what was asked for, else everything.

    Everything is each fault with an application of leases and with one of units of work, and the
    scenes about other things. The soak takes long, and is played only if it is asked for.
    """
    if asked:
        return [Play(SCENES[name], application) for name in asked]
    if application is not Application:
        return [Play(scene, application) for scene in SCENARIOS.values()]
    return [
        *(Play(scene) for scene in SCENES.values() if scene is not SOAK),
        *chosen((), UnitsOfWork),
    ]
