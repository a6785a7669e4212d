"""The event log: how each event is logged."""

import logging
from collections.abc import Callable
from typing import Any

from hasql.cluster.state import Exclusion, Health
from hasql.diagnostics import LeaseInfo, about, counted
from hasql.events import (
    BreakerClosed,
    BreakerOpened,
    DiscoveryFailed,
    DiscoveryRecovered,
    Event,
    HostAdmitted,
    HostDown,
    HostExcluded,
    HostUp,
    LeaseDropped,
    LeaseOverdue,
    RoleChanged,
)

__all__ = ("log_event",)

log = logging.getLogger("hasql")


def log_event(event: Event, hide: Callable[[str], str]) -> None:
    """Log one event; `hide` takes passwords out of a text."""
    match event:
        case LeaseOverdue() | LeaseDropped():
            _log_lease(event)
        case DiscoveryFailed(source, error):
            extra = about("discovery_failed")
            log.warning("%s has failed; the hosts stay as they are: %s", source, error, extra=extra)
        case DiscoveryRecovered(source):
            log.info("%s answers again", source, extra=about("discovery_recovered"))
        case BreakerOpened(failures, error):
            log.warning(
                "the breaker is open: %s of a master, last %s",
                counted(failures, "failure"),
                hide(repr(error)),
                extra=about("breaker_opened"),
            )
        case BreakerClosed():
            log.info("the breaker is closed: a master is serving", extra=about("breaker_closed"))
        case _:
            _log_host(event, hide)


def _log_host(
    event: HostUp | HostDown | RoleChanged | HostExcluded | HostAdmitted,
    hide: Callable[[str], str],
) -> None:
    host = event.host
    match event:
        case HostUp(_, role):
            extra = about("host_up", host=host, role=role, health=Health.UP)
            log.info("%s is up: a %s", host, role.value, extra=extra)
        case HostDown(_, error):
            extra = about("host_down", host=host, health=Health.DOWN)
            log.warning("%s is down: %s", host, hide(repr(error)), extra=extra)
        case RoleChanged(_, before, role):
            extra = about("role_changed", host=host, role=role, health=Health.UP)
            log.info("%s is a %s now, and was a %s", host, role.value, before.value, extra=extra)
        case HostExcluded(_, Exclusion.LEAVING):
            extra = about("host_excluded", host=host)
            log.info("%s %s", host, Exclusion.LEAVING.value, extra=extra)
        case HostExcluded(_, exclusion):
            log.warning("%s %s", host, exclusion.value, extra=about("host_excluded", host=host))
        case HostAdmitted(_, exclusion):
            extra = about("host_admitted", host=host)
            log.info("%s may serve again; it was excluded: %s", host, exclusion.value, extra=extra)


def _log_lease(event: LeaseOverdue | LeaseDropped) -> None:
    lease, host, role = event.lease, event.host, event.lease.role.value
    since, rest = f"{lease.since:.1f}", "" if lease.task is None else f", acquired by {lease.task}"
    if isinstance(event, LeaseOverdue) and event.terminated:
        rest += ", and is terminated"
    if lease.stack is not None:
        rest += f":\n{lease.stack}"
    if isinstance(event, LeaseOverdue):
        extra = _about_lease("lease_overdue", lease)
        log.warning(
            "%s: a lease of a %s has been out for %s s%s", host, role, since, rest, extra=extra
        )
    else:
        extra = _about_lease("lease_dropped", lease)
        log.warning(
            "%s: a lease of a %s was dropped after %s s without being given back%s",
            host,
            role,
            since,
            rest,
            extra=extra,
        )


def _about_lease(event: str, lease: LeaseInfo) -> dict[str, Any]:
    """Make the `extra` of a record on a lease, with the lease's own correlation id."""
    return about(
        event,
        host=lease.host,
        role=lease.role,
        correlation_id=lease.correlation_id,
        since=lease.since,
        task=lease.task,
        stack=lease.stack,
    )
