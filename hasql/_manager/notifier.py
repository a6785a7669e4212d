"""The notifier: reports each change once, to the log, the metrics and the application."""

import logging
from collections.abc import Callable, Iterator
from inspect import iscoroutinefunction

from hasql._manager.event_log import log_event
from hasql._manager.guarded import soon
from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion, Health, NodeState
from hasql.diagnostics import about
from hasql.driver.outside_calls import call_outside
from hasql.events import (
    Event,
    HostAdmitted,
    HostDown,
    HostExcluded,
    HostFenced,
    HostUp,
    RoleChanged,
)

__all__ = ("Listener", "Notifier", "events_between")

log = logging.getLogger("hasql")

Listener = Callable[[Event], None]

_BY_ANOTHER_MASTER = frozenset({Exclusion.FENCED, Exclusion.SPLIT})


class Notifier:
    """Counts and logs what happens to hosts, and calls the application's listeners."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        self._hide = hide
        self._listeners: list[Listener] = []
        self.role_changes = 0
        self.fencings = 0

    def add(self, listener: Listener) -> None:
        """Call a listener for each event from now on.

        Raises TypeError if it is not callable, or is a coroutine function.
        """
        if not callable(listener) or iscoroutinefunction(listener):
            msg = f"a listener must be a plain function of one event, not {listener!r}"
            raise TypeError(msg)
        self._listeners.append(listener)

    def remove(self, listener: Listener) -> None:
        """Stop calling a listener. Raises ValueError if it is not there."""
        self._listeners.remove(listener)

    def take_over(self, other: "Notifier") -> None:
        """Take over the listeners of another notifier."""
        self._listeners = list(other._listeners)  # noqa: SLF001  # its own class

    def announce(self, before: NodeState, after: NodeState) -> None:
        """Report what has happened to a node. Listeners hear of it when the change is complete."""
        for event in events_between(before, after):
            self.tell(event)

    def tell(self, event: Event) -> None:
        """Report one event.

        A log handler or a listener may wait for a thread that waits for the change that is being
        made here, so both are called once that change is done.
        """
        self.role_changes += isinstance(event, RoleChanged)
        self.fencings += isinstance(event, HostExcluded) and event.exclusion is Exclusion.FENCED
        soon(log_event, event, self._hide)
        for listener in tuple(self._listeners):
            soon(call_outside, self._call, listener, event)

    def _call(self, listener: Listener, event: Event) -> None:
        if listener not in self._listeners:
            return  # removed since
        try:
            listener(event)
        except Exception:
            name, extra = type(event).__name__, about("listener_failed")
            log.exception("a listener has failed on %s", name, extra=extra)


def events_between(before: NodeState, after: NodeState) -> Iterator[Event]:
    """Yield what has happened to a node between two consecutive states."""
    if after.health is Health.DOWN and before.health is not Health.DOWN:
        yield HostDown(after.host, after.error)
    if after.health is Health.UP and before.health in {Health.STARTING, Health.DOWN}:
        yield HostUp(after.host, after.role)
    # Compared with its last answer: a host that was down in between may return in another role.
    last = Role.UNKNOWN if before.reading is None else before.reading.role
    if Role.UNKNOWN not in {last, after.role} and last is not after.role:
        yield RoleChanged(after.host, last, after.role)
    if after.exclusion is before.exclusion:
        return
    if after.exclusion is not None:
        kind = HostFenced if after.exclusion in _BY_ANOTHER_MASTER else HostExcluded
        yield kind(after.host, after.exclusion)
    elif before.exclusion is not None:
        yield HostAdmitted(after.host, before.exclusion)
