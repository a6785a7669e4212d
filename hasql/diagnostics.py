"""Diagnostics: what ties log records, events and leases to a request of the application.

Every log record of hasql has the attributes `host`, `role`, `health`, `correlation_id` and
`event`; those that do not apply are None. So a formatter can rely on these names, and structlog's
`ExtraAdder` finds them: see `docs/howto/observe`.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Role
from hasql.cluster.state import Health

__all__ = ("LeaseInfo", "about", "correlated", "correlation_id", "counted")

correlation_id: ContextVar[str | None] = ContextVar("hasql_correlation_id", default=None)
"""What the current task or thread works for, such as the id of a request. None: it is not known.

A task inherits it from the code that creates the task. A thread does not: set it there again, or
run the thread's work with `contextvars.copy_context().run`.
"""


@contextmanager
def correlated(to: str) -> Iterator[None]:
    """Give this correlation id to all that is acquired and logged inside the block.

    Raises:
        TypeError: The correlation id is not a str.
    """
    if not isinstance(to, str):
        msg = f"correlated takes a str, such as the id of a request, not {to!r}"
        raise TypeError(msg)
    token = correlation_id.set(to)
    try:
        yield
    finally:
        correlation_id.reset(token)


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """One connection that is out, at the moment of the call."""

    host: HostSpec
    #: The role the host serves in; if it no longer serves, the role that was asked for.
    role: Role
    #: For how many seconds it has been out.
    since: float
    #: The correlation id of the task or thread that acquired it. None: there was none.
    correlation_id: str | None
    #: The name of the task or thread that acquired it; None without `lifecycle`.
    task: str | None
    #: Where it was acquired, formatted as a traceback; None without `Lifecycle(stacks=True)`.
    stack: str | None


def about(
    event: str,
    *,
    host: HostSpec | None = None,
    role: Role | None = None,
    health: Health | None = None,
    **others: object,
) -> dict[str, Any]:
    """Make the `extra` of a log record: what has happened, and which host it concerns."""
    extra: dict[str, Any] = {"event": event, **others}
    if host is not None:
        extra["host"] = str(host)
    if role is not None:
        extra["role"] = role.value
    if health is not None:
        extra["health"] = health.value
    return extra


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, as in "1 lease" and "2 leases"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_ABOUT_A_HOST = ("host", "role", "health")


class _Attributes(logging.Filter):
    """Adds the attributes that a record lacks, and keeps every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        known: Mapping[str, Any] = vars(record)
        for name in _ABOUT_A_HOST:
            if name not in known:
                setattr(record, name, None)
        if "correlation_id" not in known:
            record.correlation_id = correlation_id.get()
        if "event" not in known:  # not None: for structlog it is the message
            record.event = record.getMessage()
        return True


logging.getLogger("hasql").addFilter(_Attributes())
