"""The errors that leases have met. What is known of one is noted on the error, so nothing grows."""

from contextlib import suppress
from enum import Enum
from itertools import count

__all__ = ("Met", "MetErrors")

_numbers = count(1)
_NOTE = "_hasql_met"


class Met(Enum):
    """What only the lease knows of an error that it has met."""

    #: The server of a master's lease has said that it is a standby.
    ON_STANDBY = "on a standby"
    #: It looks like a lost connection, but the lease's connection was not lost.
    ON_SOUND = "on a sound connection"
    #: The driver has raised it by itself, on a connection that was gone.
    ON_LOST = "on a lost connection"
    #: The connection was broken because its lease was out for too long.
    ON_TERMINATED = "on a terminated lease"


class MetErrors:
    """The errors of one manager's leases that only their lease can explain."""

    def __init__(self) -> None:
        self._number = next(_numbers)

    def note(self, error: BaseException, met: Met) -> None:
        """Take note of how a lease has met an error."""
        with suppress(Exception):  # an application's class may keep its attributes elsewhere
            vars(error)[_NOTE] = self._number, met

    def was(self, error: BaseException, met: Met) -> bool:
        """Tell whether a lease of this manager has noted that it met an error in this way."""
        try:
            noted: object = vars(error).get(_NOTE)
        except Exception:  # noqa: BLE001  # as above
            return False
        return noted == (self._number, met)
