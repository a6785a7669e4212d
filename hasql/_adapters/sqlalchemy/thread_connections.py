"""The driver's connections that a queue pool for threads has opened."""

from __future__ import annotations

import select
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from hasql._adapters.fork_guard import cut_off_in_children
from hasql.driver.destinations import Destinations

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from hasql._adapters.kill_switch import KillSwitch
    from hasql._adapters.session_setup import WithSettings
    from hasql._adapters.sqlalchemy.thread_library import ThreadLibrary
    from hasql.driver.session_settings import SettingsMade

__all__ = ("NewConnection", "QueueConnections")

#: Seconds for which a connection that was alive counts as alive without asking the kernel.
_ALIVE_FOR = 0.001


class NewConnection(NamedTuple):
    """A connection that was opened, but not taken in yet."""

    raw: Any
    switch: KillSwitch
    address: str | None
    made: SettingsMade


class _Known:
    """What is known of an open connection."""

    __slots__ = ("alive_at", "in_hot_standby", "readable", "switch")

    def __init__(self, switch: KillSwitch) -> None:
        self.switch = switch
        sockets = select.poll()
        sockets.register(switch.fileno(), select.POLLIN)
        self.readable: Callable[[int], Any] = sockets.poll
        self.in_hot_standby: bool | None = None
        #: When it was last known to be alive, in seconds of time.monotonic().
        self.alive_at = monotonic()


class QueueConnections:
    """The open connections of one pool, each of which any thread can abort, and find dead.

    Must be made in the manager's event loop.
    """

    def __init__(self, library: ThreadLibrary) -> None:
        self._library = library
        self._open: dict[Any, _Known] = {}
        self.destinations = Destinations()
        self._loop_thread = get_ident()

    def make_abortable(self, opened: WithSettings[tuple[Any, str | None]]) -> NewConnection:
        """Make it possible to end a connection from any thread. Raises ConnectionError if lost."""
        raw, address = opened.connection
        try:
            switch = self._library.switch(raw)
        except Exception as error:  # each library has an error of its own for that
            self._library.close(raw)
            raise ConnectionError("the connection was lost as soon as it was made") from error
        cut_off_in_children(raw, self._library.fileno)
        return NewConnection(raw, switch, address, opened.made)

    def take_in(self, new: NewConnection) -> None:
        """Take in a new connection, which is known from now on."""
        raw = new.raw
        known = self._open[raw] = _Known(new.switch)
        known.in_hot_standby = self._library.in_hot_standby(raw)
        read_only = self._library.is_read_only(raw)
        self.destinations.opened(
            raw,
            known.in_hot_standby,
            read_only=read_only,
            address=new.address,
            made=new.made,
        )

    def discard(self, new: NewConnection) -> None:
        """Close a connection that was not taken in, or is not to be used."""
        self.abort(new.raw)
        new.switch.close()
        self._library.close(new.raw)

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, raw: object) -> bool:
        return raw in self._open

    def count_except(self, some: Collection[Any]) -> int:
        """Count the open connections that are not among `some`."""
        return sum(raw not in some for raw in self._open.copy())

    def is_closed(self, raw: Any) -> bool:
        """Tell whether a connection is known to be gone."""
        return raw not in self._open or self._library.is_closed(raw)

    def is_usable(self, raw: Any) -> bool:
        """Tell whether an idle connection looks usable, without asking the server."""
        known = self._open.get(raw)
        if known is None or self._library.is_closed(raw):
            return False
        now = monotonic()
        if now - known.alive_at < _ALIVE_FOR:
            return True  # saves a system call
        while known.readable(0):
            if not self._library.read_input(raw):
                return False
        known.alive_at = now
        return True

    def note_alive(self, raw: Any) -> None:
        """Take note that a connection has just been used."""
        if (known := self._open.get(raw)) is not None:
            known.alive_at = monotonic()

    def in_hot_standby(self, raw: Any) -> bool | None:
        """Return what the server last reported; None: unknown."""
        known = self._open.get(raw)
        if known is None or self._library.is_closed(raw):
            return None
        # Do not ask libpq while it is at work in another thread.
        if get_ident() != self._loop_thread or not self._library.is_busy(raw):
            known.in_hot_standby = self._library.in_hot_standby(raw)
        return known.in_hot_standby

    def forget(self, raw: Any) -> None:
        """Forget a connection that is closed, or about to be."""
        self.destinations.closed(raw)
        if (known := self._open.pop(raw, None)) is not None:
            known.switch.close()

    def prepare_close(self, raw: Any) -> None:
        """Forget a connection that the pool is about to close, and end what runs on it."""
        if not self._library.is_closed(raw) and self._library.is_busy(raw):
            self.abort(raw)
        else:
            self.forget(raw)

    def abort(self, raw: Any) -> None:
        """End a connection at once, whichever thread uses it; that thread closes it."""
        if (known := self._open.get(raw)) is not None:
            known.switch.shut_down()
            self.forget(raw)

    def abort_all(
        self, but: Collection[Any] = (), to: Callable[[str | None], bool] = lambda _: True
    ) -> None:
        """Abort the connections to addresses that `to` accepts, except those in `but`."""
        for raw in self._open.copy():
            if raw not in but and to(self.destinations.address_of(raw)):
                self.abort(raw)
