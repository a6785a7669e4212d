"""When to ask SQLAlchemy's pool again, instead of opening a connection while another is idle.

SQLAlchemy's queue may hand out a place without a connection while another place has an idle one.
"""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ("MAY_RETRY", "RetryCheckoutError")

#: Whether the current acquire can ask the pool again, if the pool has an idle connection after all.
#: None: the pool is not being asked by an acquire of hasql's.
MAY_RETRY: ContextVar[bool | None] = ContextVar("may_retry", default=None)


class RetryCheckoutError(Exception):
    """A connection is idle, so ask the pool again. This error never leaves the adapter."""
