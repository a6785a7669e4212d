"""Passing over a place of SQLAlchemy's pool that has no connection, as another is idle."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ("MAY_PASS", "PassedError")

#: Whether an acquire can ask the pool again when it has an idle connection after all; None: this is
#: no acquire of hasql's.
MAY_PASS: ContextVar[bool | None] = ContextVar("may_pass", default=None)


class PassedError(Exception):
    """There is an idle connection, so none has to be opened; never leaves the adapter."""
