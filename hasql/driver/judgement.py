"""What an exception says about a server, whatever exception it is."""

import logging
from errno import ETIMEDOUT
from typing import Any

from hasql.diagnostics import about
from hasql.driver import Driver, Failure

__all__ = ("is_own_limit", "judge_error", "sqlstate_of")

log = logging.getLogger("hasql")


def judge_error(driver: Driver[Any, Any], error: BaseException) -> Failure:
    """Ask a driver what an exception says about the server; OTHER if it cannot tell.

    The exception may be the application's own, derived from the driver's and of any shape.
    """
    try:
        return driver.failure(error)
    except Exception:
        name, extra = type(error).__name__, about("judgement_failed")
        log.exception("could not judge what a %s says about the server", name, extra=extra)
        return Failure.OTHER


def is_own_limit(error: BaseException) -> bool:
    """Tell whether an exception is a time limit of the application, and not the kernel's error."""
    return isinstance(error, TimeoutError) and error.errno != ETIMEDOUT


def sqlstate_of(driver: Driver[Any, Any], error: BaseException) -> str | None:
    """Ask a driver for the server's code; see `Driver.sqlstate`. None as well if it cannot tell."""
    try:
        return driver.sqlstate(error)
    except Exception:  # noqa: BLE001  # an exception of the application's, of any shape
        return None
