"""Describes the leases that are out, for the application."""

import linecache
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from hasql._leasing.lease import Calls, Lease
from hasql.cluster.probe import Role
from hasql.diagnostics import LeaseInfo

__all__ = ("calls_that_led_here", "info_of", "infos_of")

_OURS = f"{Path(__file__).parents[1]}/"
"""The directory of hasql's own code, whose calls are left out."""

_CALLS_KEPT = range(16)
"""Counts off the calls that are kept; each more costs every acquire a tenth of a microsecond."""


def info_of(lease: Lease[Any, Any], now: float) -> LeaseInfo | None:
    """Describe a lease; None: it is not out any more, or not yet."""
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
        stack=_formatted(lease.calls) if lease.calls is not None else None,
    )


def infos_of(leases: Iterable[Lease[Any, Any]], now: float) -> list[LeaseInfo]:
    """Describe leases, the oldest first."""
    known = (info_of(lease, now) for lease in leases)
    return sorted(filter(None, known), key=lambda info: -info.since)


def calls_that_led_here(frame: FrameType | None) -> Calls:
    """Return the calls from a frame outwards, without the innermost ones, which are hasql's own.

    This runs on each acquire, so it takes only what is at hand. The line of an instruction would
    have to be looked up in a table, and may never be asked for.
    """
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    codes, instructions = [], []
    for _ in _CALLS_KEPT:
        if frame is None:
            break
        codes.append(frame.f_code)
        instructions.append(frame.f_lasti)
        frame = frame.f_back
    return codes, instructions


def _formatted(calls: Calls) -> str:
    """Format the calls as a traceback is formatted, the innermost call last."""
    lines = []
    if len(calls[0]) == len(_CALLS_KEPT):
        lines.append(f"  (the innermost {len(_CALLS_KEPT)} calls)\n")
    for code, instruction in reversed([*zip(*calls, strict=True)]):
        number = _line_of(code, instruction)
        lines.append(f'  File "{code.co_filename}", line {number}, in {code.co_name}\n')
        if text := linecache.getline(code.co_filename, number).strip():
            lines.append(f"    {text}\n")
    return "".join(lines)


def _line_of(code: CodeType, instruction: int) -> int:
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            return line
    return code.co_firstlineno
