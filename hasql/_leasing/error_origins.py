"""Where errors come from, as leases have found. It is noted on the error, so that nothing grows."""

from contextlib import suppress
from enum import Enum
from itertools import count

__all__ = ("ErrorOrigin", "ErrorOrigins")

_numbers = count(1)
_NOTE = "_hasql_origin"


class ErrorOrigin(Enum):
    """Where an error comes from, as only the lease knows that has met it."""

    #: The server of a master's lease has said that it is a standby.
    STANDBY = "on a standby"
    #: It looks like a lost connection, but the lease's connection was not lost.
    SOUND_CONNECTION = "on a sound connection"
    #: The driver has raised it by itself, on a connection that was gone.
    LOST_CONNECTION = "on a lost connection"
    #: The connection was broken because its lease was out for too long.
    TERMINATED_LEASE = "on a terminated lease"


class ErrorOrigins:
    """The errors of one manager's leases that only their lease can explain."""

    def __init__(self) -> None:
        self._number = next(_numbers)

    def note(self, error: BaseException, origin: ErrorOrigin) -> None:
        """Take note of where an error comes from."""
        with suppress(Exception):  # an application's class may keep its attributes elsewhere
            vars(error)[_NOTE] = self._number, origin

    def is_noted(self, error: BaseException, origin: ErrorOrigin) -> bool:
        """Tell whether a lease of this manager has noted that an error comes from there."""
        try:
            noted: object = vars(error).get(_NOTE)
        except Exception:  # noqa: BLE001  # as above
            return False
        return noted == (self._number, origin)
