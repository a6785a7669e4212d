"""Which connections of an aiopg pool are leased, and what was handed out for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic
from weakref import ReferenceType, ref

from hasql.driver import ConnT

if TYPE_CHECKING:
    from collections.abc import Iterable

    import aiopg

__all__ = ("SlotLeases",)


class SlotLeases(Generic[ConnT]):
    """The leases of one pool by aiopg connection, whether that is still open or not."""

    def __init__(self) -> None:
        #: The slot that aiopg's pool must get back.
        self._slots: dict[aiopg.Connection, Any] = {}
        #: The object that the user has got.
        self._handed_out: dict[aiopg.Connection, ReferenceType[Any]] = {}

    def add(self, inner: aiopg.Connection, slot: Any, handed_out: ConnT) -> ConnT:
        """Add a lease, and return the object that the user gets."""
        self._slots[inner] = slot
        self._handed_out[inner] = ref(handed_out)
        return handed_out

    def is_of_another(self, inner: aiopg.Connection, handed_out: ConnT) -> bool:
        """Tell whether the connection is leased again, and this was handed out for a former lease.

        That can happen if the user has given it back to aiopg's pool directly. If the slot itself
        is handed out, this cannot tell, because the slot is the same object in each lease.
        """
        lent = self.handed_out(inner)
        return lent is not None and lent is not handed_out  # None: dropped, so it is this lease

    def handed_out(self, inner: aiopg.Connection) -> ConnT | None:
        """Return the object handed out for a connection; None: it is not leased, or was dropped."""
        reference = self._handed_out.get(inner)
        return None if reference is None else reference()

    def remove(self, inner: aiopg.Connection) -> Any:
        """End a lease and return its slot; None: it was taken from aiopg's pool directly."""
        self._handed_out.pop(inner, None)
        return self._slots.pop(inner, None)

    def remove_all(self) -> Iterable[Any]:
        """End every lease and return their slots."""
        slots = tuple(self._slots.values())
        self._slots.clear()
        self._handed_out.clear()
        return slots
