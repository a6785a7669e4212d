"""Where the connections of a pool lead, because a name may lead to several servers.

Behind a service name or a proxy one pool may hold connections to a master, to its standbys and to a
master that was replaced, while the monitor sees only the server of its own connection.
"""

from collections.abc import Hashable
from typing import TypeAlias

from hasql.driver.session_settings import ALL_MADE, SettingsMade

__all__ = ("Destinations", "Server")

#: A running server: the identifier of its cluster, and the start of its postmaster.
Server: TypeAlias = tuple[int, int]


class Destinations:
    """What is known of where each open connection of one pool leads.

    An adapter reports each connection that opens or closes, by a key that stays the same from one
    lease to the next. Any thread may use all of it: each method changes one thing at a time, and in
    an order in which a connection that is not safe is never taken for safe.
    """

    def __init__(self) -> None:
        #: The connections that said `in_hot_standby = on` when they were last looked at. `off` is
        #: final for a session, so when the set is empty no connection has to be looked at.
        self.maybe_standby: set[Hashable] = set()
        #: Connections that may have ended without a sign: each is asked before a task gets it.
        self.maybe_dead: set[Hashable] = set()
        #: By connection: the pool's settings that are not in force on it, because it leads through
        #: a pooler that has refused or ignored them.
        self.lacking: dict[Hashable, tuple[str, ...]] = {}
        #: By connection: the pool's settings that a `RESET ALL` undoes.
        self.undone_by_reset: dict[Hashable, tuple[str, ...]] = {}
        #: Connections that hasql has made read-only, for reads on a master. They still are, unless
        #: a reset has lifted it.
        self.made_read_only: set[Hashable] = set()
        self._open: set[Hashable] = set()
        self._servers: dict[Hashable, Server] = {}
        self._read_only: set[Hashable] = set()
        self._addresses: dict[Hashable, str] = {}

    def opened(
        self,
        key: Hashable,
        in_hot_standby: bool | None,  # noqa: FBT001  # what the server has reported
        *,
        read_only: bool,
        address: str | None = None,
        made: SettingsMade = ALL_MADE,
    ) -> None:
        """Take in a new connection.

        Args:
            key: The key of the connection.
            in_hot_standby: What its server has reported. None: it does not report that.
            read_only: Whether its server has reported that transactions are read-only by default,
                by a setting of the role, of the database or of the server.
            address: The address that was dialled. None: not known.
            made: What has become of the pool's settings on it.
        """
        self._open.add(key)
        if made.lacking:
            self.lacking[key] = made.lacking
        if made.undone_by_reset:
            self.undone_by_reset[key] = made.undone_by_reset
        if address:
            self._addresses[key] = address
        if read_only:
            self._read_only.add(key)
        if in_hot_standby:
            self.maybe_standby.add(key)

    def keys(self) -> set[Hashable]:
        """Return the keys of all open connections."""
        return self._open.copy()

    def closed(self, key: Hashable) -> None:
        """Forget a connection."""
        self._open.discard(key)
        self.maybe_dead.discard(key)
        self._servers.pop(key, None)
        self._addresses.pop(key, None)
        self._read_only.discard(key)
        self.lacking.pop(key, None)
        self.undone_by_reset.pop(key, None)
        self.made_read_only.discard(key)
        self.note_writes(key)

    def note_maybe_dead(self, key: Hashable) -> None:
        """Take note that an open connection may have ended, as far as its last user could tell."""
        if key in self._open:
            self.maybe_dead.add(key)

    def note_all_maybe_dead(self) -> None:
        """Take note that whatever ended one connection may have ended the others.

        A server that shuts down, or an administrator, ends many sessions at once. A driver that has
        read a server's last words takes the connection for open until its socket closes.
        """
        self.maybe_dead.update(self._open.copy())
        # Another thread may have closed some meanwhile, and nothing else would take those out.
        self.maybe_dead.difference_update(self.maybe_dead.copy() - self._open.copy())

    def note_writes(self, key: Hashable) -> None:
        """Take note that a connection said `off`: its server writes while the session lasts."""
        self.maybe_standby.discard(key)

    def note_made_read_only(self, key: Hashable) -> None:
        """Take note that an open connection was made read-only."""
        if key in self._open:
            self.made_read_only.add(key)

    def note_server(self, key: Hashable, server: Server) -> None:
        """Take note of the server that a connection leads to."""
        self._servers[key] = server

    def server_of(self, key: Hashable) -> Server | None:
        """Return the server that a connection is known to lead to; None: nothing has asked yet."""
        return self._servers.get(key)

    def address_of(self, key: Hashable) -> str | None:
        """Return the address that a connection was opened to; None: it is not known."""
        return self._addresses.get(key)

    def addresses(self) -> set[str]:
        """Return all addresses that open connections are known to lead to."""
        return {*self._addresses.copy().values()}

    def was_opened_read_only(self, key: Hashable) -> bool:
        """Tell whether a connection was opened read-only, so that a new one might write instead."""
        return key in self._read_only
