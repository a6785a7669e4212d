"""When SQLAlchemy's pool is asked again, instead of opening a connection while another is idle.

SQLAlchemy's queue may hand out a place that has no connection while another place has an idle one.
"""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ("MAY_RETRY", "RetryCheckoutError")

#: Whether the current acquire can ask the pool again, if that has an idle connection after all.
#: None: nobody acquires here by hasql.
MAY_RETRY: ContextVar[bool | None] = ContextVar("may_retry", default=None)


class RetryCheckoutError(Exception):
    """A connection is idle, so none need be opened: ask again. It never leaves the adapter."""
