"""How a thread waits for what another one does, and tells its own time limit from an alarm's.

A future's own limit raises TimeoutError. So may a signal's handler while the main thread waits, for
a limit of the application's own: that is to end what the application does.
"""

from concurrent.futures import CancelledError, Future
from typing import Any

__all__ = ("ended_within",)

_LIMITED = Future.exception.__code__


def ended_within(awaited: "Future[Any]", seconds: float) -> bool:
    """Wait until something has ended, for so many seconds at most; return whether it has.

    Raises what a signal's handler raises meanwhile.
    """
    # By no callback of the future's: an interruption of the thread that ends it could come within.
    try:
        awaited.exception(max(0.0, seconds))
    except CancelledError:
        if not awaited.cancelled():
            raise  # it is a handler's
    except TimeoutError as error:
        # A handler has raised its own further within.
        raised = error.__traceback__
        while raised is not None and raised.tb_next is not None:
            raised = raised.tb_next
        if raised is None or raised.tb_frame.f_code is not _LIMITED:
            raise
        return False
    return True
