"""The lease: an acquired connection, and the duty to give it back."""

from collections.abc import Hashable
from types import CodeType
from typing import Any, Generic, TypeAlias

from hasql._routing.node import Node
from hasql._routing.request import Request
from hasql.driver import ConnT, PoolT
from hasql.errors import HasqlError

__all__ = ("Calls", "Lease")

#: The code of each call, the innermost first, and where in that code it was.
Calls: TypeAlias = tuple[list[CodeType], list[int]]


class Lease(Generic[PoolT, ConnT]):
    """What is known of one acquire, by a task or by a thread.

    A lease can be used once. The pool manager makes it, never the application.
    """

    # A lease is made for each acquire, and most leases never set these: so they are defaults of the
    # class.

    #: The one node to take from, whatever its role; None: the routing chooses.
    fixed_node: Node[PoolT, ConnT] | None = None
    node: Node[PoolT, ConnT] | None = None
    connection: ConnT | None = None
    #: Whether the application is done with it: nothing is lost if it is broken now.
    returning = False
    #: Whether its connection must not be used again: for example, its host was purged meanwhile, or
    #: it was lent for writing and its server does not write any more.
    expired = False
    #: Whether a task of its own finishes giving it back, because its user's task was cancelled.
    detached = False
    #: When it has to be back, by the clock, once it is returning.
    due_back = 0.0
    used = False
    #: Whether it is given back by a call, not at the end of a block.
    released_by_call = False
    #: Whether it has waited for a place, which is counted once for each acquire.
    waited = False
    #: When its acquire ended, by the clock (0: it has not), and its correlation id, for which see
    #: `hasql.diagnostics`.
    lent_at = 0.0
    correlation_id: str | None = None
    #: The thread that has taken it; 0: a task has.
    thread = 0
    #: Its number for a tracer; 0: it is not traced.
    trace_number = 0
    #: What a watch on leases has noted of its acquire: the name of the task or thread, and the
    #: calls that led there. Frames are not noted: they would keep the calls' variables alive.
    task: str | None = None
    calls: Calls | None = None
    #: The key by which the upkeep of connections knows its connection, if the upkeep counts how
    #: long that is idle.
    key: Hashable | None = None
    #: Whether it was out for too long, and that was reported.
    leak_reported = False
    #: Whether its connection was broken because it was out for too long; and whether its places in
    #: the driver's pool and with the router have been freed since. The application still gives it
    #: back, like any broken connection.
    terminated = False
    places_freed = False
    #: The settings that it wants of the session; None: no more than the login gives.
    settings: Any = None
    #: Whether its user runs `local_settings` in a transaction, to set what the session lacks.
    sets_locally = False
    #: SQL that does so; None: nothing is lacking.
    local_settings: str | None = None
    #: Whether its connection is read-only, as the lease wants it to be.
    read_only = False
    #: SQL that undoes what was set for it; None: there is nothing to undo.
    undo: str | None = None
    #: Whether it is within the manager's layers: see `LeaseLayers`.
    in_layers = False
    #: Whether its connection was closed before it was given back, or by giving it back.
    lost = False
    #: Whether its session has come to a limit of its own, as a driver has reported.
    hit_session_limit = False
    #: A web framework's integration may set a function here, which is called before a call gives
    #: the connection back; None: there is none.
    before_call: Any = None
    #: What the layers that let it in have given it, and want back.
    permit: Any = None
    token: Any = None

    def __init__(
        self,
        lender: Any,  # each kind of lease has its own
        request: Request,
        timeout: float,
        kwargs: dict[str, Any],
    ) -> None:
        self._lender = lender
        self.request = request
        #: Seconds for the whole acquire.
        self.timeout = timeout
        #: Arguments for the driver's own acquire.
        self.kwargs = kwargs
        #: This attribute exists until a thread begins to give the lease back. Deleting it is one
        #: step, which needs no lock: of several threads that try, only one succeeds.
        self.unreturned = True

    def move_to(self, lender: Any) -> None:
        """Let another lender lend this lease and give it back."""
        self._lender = lender

    def successor(self) -> "Lease[PoolT, ConnT]":
        """Make a lease of what this one has taken; this one holds nothing afterwards."""
        other: Lease[PoolT, ConnT] = type(self)(
            self._lender, self.request, self.timeout, self.kwargs
        )
        other.used, other.fixed_node, other.expired = (
            True,
            self.fixed_node,
            self.expired,
        )
        other.node, other.connection = self.node, self.connection
        other.undo, self.undo = self.undo, None
        self.node, self.connection, self.expired = None, None, False
        return other

    def __repr__(self) -> str:
        state = "returning" if self.returning else "out" if self.node is not None else "idle"
        return f"<Lease of a {self.request}, {state}>"

    def used_twice(self) -> HasqlError:
        """Make the error for an application that uses the lease a second time."""
        return HasqlError(
            "this acquire was used already; call acquire again for another connection"
        )
