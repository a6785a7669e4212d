"""The errors that leases have met: what is known is noted on them, so that nothing grows."""

from contextlib import suppress
from itertools import count

__all__ = ("MetErrors",)

_numbers = count(1)
_NOTE = "_hasql_met_on_standby"


class MetErrors:
    """The errors of one manager's leases that only their lease can explain."""

    def __init__(self) -> None:
        self._number = next(_numbers)

    def note_on_standby(self, error: BaseException) -> None:
        """Take note that a master's lease has met it, whose server says that it is a standby."""
        with suppress(Exception):  # an application's class may keep its attributes elsewhere
            vars(error)[_NOTE] = self._number

    def was_on_standby(self, error: BaseException) -> bool:
        """Tell whether that was noted by a lease of this manager."""
        try:
            noted: object = vars(error).get(_NOTE)
        except Exception:  # noqa: BLE001  # as above
            return False
        return noted == self._number
