"""What is told of the leases that are out."""

import linecache
from collections.abc import Iterable
from pathlib import Path
from types import CodeType
from typing import Any

from hasql._leasing.lease import Lease
from hasql.cluster.probe import Role
from hasql.diagnostics import LeaseInfo

__all__ = ("calls_that_led_here", "info_of", "infos_of")

_OURS = f"{Path(__file__).parents[1]}/"
"""Where hasql's own code is, of which nobody wants to hear."""


def info_of(lease: Lease[Any, Any], now: float) -> LeaseInfo | None:
    """Tell of a lease; None: it is not out any more, or not yet."""
    node = lease.node
    if node is None or lease.returning or not lease.lent_at:
        return None
    role = lease.request.role
    if node.as_master is not node.as_replica:
        role = Role.MASTER if node.as_master else Role.REPLICA
    return LeaseInfo(
        host=node.host,
        role=role,
        since=max(0.0, now - lease.lent_at),
        correlation_id=lease.correlation_id,
        task=lease.task,
        stack=_formatted(lease.calls) if lease.calls else None,
    )


def infos_of(leases: Iterable[Lease[Any, Any]], now: float) -> list[LeaseInfo]:
    """Tell of leases, the oldest first."""
    known = (info_of(lease, now) for lease in leases)
    return sorted(filter(None, known), key=lambda info: -info.since)


def calls_that_led_here(frame: Any) -> tuple[tuple[CodeType, int], ...]:
    """Return the code and line of each call, the innermost first, without those of hasql's own."""
    calls: list[tuple[CodeType, int]] = []
    while frame is not None:
        if calls or not frame.f_code.co_filename.startswith(_OURS):
            calls.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(calls)


def _formatted(calls: tuple[tuple[CodeType, int], ...]) -> str:
    """Write it as a traceback is written, the innermost call last."""
    lines = []
    for code, number in reversed(calls):
        lines.append(f'  File "{code.co_filename}", line {number}, in {code.co_name}\n')
        if text := linecache.getline(code.co_filename, number).strip():
            lines.append(f"    {text}\n")
    return "".join(lines)
