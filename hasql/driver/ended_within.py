"""How a thread waits for what another thread does, and tells its own time limit from an alarm's.

A future's own limit raises TimeoutError. While the main thread waits, a signal handler may raise
one as well, for a limit of the application's own. That one has to end what the application does.
"""

from concurrent.futures import CancelledError, Future
from typing import Any

__all__ = ("ended_within",)

_LIMITED = Future.exception.__code__


def ended_within(awaited: "Future[Any]", seconds: float) -> bool:
    """Wait until a future has ended, for at most so many seconds; return whether it has.

    Raises whatever a signal handler raises meanwhile.
    """
    # Without a callback of the future: the thread that ends it could be interrupted within that.
    try:
        awaited.exception(max(0.0, seconds))
    except CancelledError:
        if not awaited.cancelled():
            raise  # it is a signal handler's
    except TimeoutError as error:
        # A signal handler would have raised its own in a deeper frame.
        raised = error.__traceback__
        while raised is not None and raised.tb_next is not None:
            raised = raised.tb_next
        if raised is None or raised.tb_frame.f_code is not _LIMITED:
            raise
        return False
    return True
