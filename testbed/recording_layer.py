"""A lease layer that records every call that it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hasql._leasing.layers import Layer, LeaseLayers

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from hasql._leasing.lease import Lease

__all__ = ("RecordingLayer", "record")


class RecordingLayer(Layer):
    """Records the history of each lease, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._of_lease: dict[int, list[str]] = {}
        self._kept: list[object] = []  # kept alive, so that no id() is used twice
        self.stories: list[list[str]] = []
        self.errors: list[BaseException | None] = []

    def enter(self, lease: Lease[Any, Any], deadline: float) -> Awaitable[None] | None:
        del deadline
        self._begin(lease)
        return None

    def enter_in_thread(self, lease: Lease[Any, Any], deadline: float) -> None:
        del deadline
        self._begin(lease)

    def lent(self, lease: Lease[Any, Any]) -> None:
        self._of_lease[id(lease)].append("lent")

    def failed(self, lease: Lease[Any, Any], error: BaseException) -> None:
        if id(lease) in self._of_lease:
            self._of_lease[id(lease)].append("failed")
            self.errors.append(error)

    def returned(self, lease: Lease[Any, Any], node: object, error: BaseException | None) -> None:
        assert node is not None
        assert lease.node is None
        self._of_lease[id(lease)].append("returned")
        self.errors.append(error)

    def _begin(self, lease: Lease[Any, Any]) -> None:
        self._kept.append(lease)
        story: list[str] = []
        self._of_lease[id(lease)] = story
        self.stories.append(story)

    @property
    def out(self) -> int:
        """How many leases are being acquired, or are lent and not returned yet."""
        return sum(not {"failed", "returned"} & set(story) for story in self.stories)


def record(manager: Any) -> tuple[RecordingLayer, RecordingLayer]:
    """Put one such layer around all layers of a manager, and one inside, before its first use."""
    parts = manager._parts  # noqa: SLF001  # there is no public way to add layers here
    outer, inner = RecordingLayer(), RecordingLayer()
    layers: LeaseLayers[Any, Any] = LeaseLayers(
        [outer, *parts.load.layers(), inner],
        manager._options.clock,  # noqa: SLF001  # as above
    )
    parts.checkout.use_layers(layers)
    return outer, inner
