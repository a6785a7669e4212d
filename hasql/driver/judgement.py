"""What an exception tells of a server, whatever it is."""

import logging
from errno import ETIMEDOUT
from typing import Any

from hasql.diagnostics import about
from hasql.driver import Driver, Failure

__all__ = ("is_own_limit", "judged", "sqlstate_of")

log = logging.getLogger("hasql")


def judged(driver: Driver[Any, Any], error: BaseException) -> Failure:
    """Have a driver say what an exception tells of the server; OTHER if it cannot.

    It may be one of the application's own, derived from the driver's and of any shape.
    """
    try:
        return driver.failure(error)
    except Exception:
        name, extra = type(error).__name__, about("judgement_failed")
        log.exception("no telling what a %s says of the server", name, extra=extra)
        return Failure.OTHER


def is_own_limit(error: BaseException) -> bool:
    """Tell whether an exception is a time limit of the application's, and not the kernel's word."""
    return isinstance(error, TimeoutError) and error.errno != ETIMEDOUT


def sqlstate_of(driver: Driver[Any, Any], error: BaseException) -> str | None:
    """Have a driver tell the server's code; see `Driver.sqlstate`. None as well if it cannot."""
    try:
        return driver.sqlstate(error)
    except Exception:  # noqa: BLE001  # one of the application's, of any shape
        return None
