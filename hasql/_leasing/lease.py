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
    """What is known of one acquire, of a task's or of a thread's.

    It is for one use. Made by the pool manager, never by the application.
    """

    # Those are defaults of the class that most leases never set: one is made for each acquire.

    #: The one node to take from, whatever its role; None: route.
    fixed_node: Node[PoolT, ConnT] | None = None
    node: Node[PoolT, ConnT] | None = None
    connection: ConnT | None = None
    #: Whether the application is done with it: nothing is lost if it is broken now.
    returning = False
    #: Whether its connection must not be used again: its host was purged meanwhile, or does not
    #: write and is no master any more.
    expired = False
    #: Whether a task of its own finishes giving it back, as the one that used it was cancelled.
    detached = False
    #: When it has to be back, by the clock, once it is returning.
    due_back = 0.0
    used = False
    #: Whether it is given back by a call, not at the end of a block.
    awaited = False
    #: Whether it has waited for a place, which is counted once.
    waited = False
    #: When its acquire has ended, by the clock; 0: it has not. And to what it is correlated: see
    #: `hasql.diagnostics`.
    lent_at = 0.0
    correlation_id: str | None = None
    #: The thread that has taken it; 0: a task has.
    thread = 0
    #: For a tracer: its number.
    number = 0
    #: What a watch on leases has noted of who has acquired it: the name of the task or thread, and
    #: the calls that have led there. No frames, which would keep alive what the calls have at hand.
    task: str | None = None
    calls: Calls | None = None
    #: What the upkeep of connections knows its connection by, if that counts since when it is idle.
    key: Hashable | None = None
    #: Whether it was out for too long, and was told of.
    told_of = False
    #: Whether its connection was broken for that; and whether its places in the driver's pool and
    #: with the router are free by now. The application still gives it back, as any broken one.
    terminated = False
    freed = False
    #: What it wants of the session; None: no more than the login gives.
    settings: Any = None
    #: Whether who takes it sets by `local_settings`, in a transaction, what the session lacks.
    sets_locally = False
    #: SQL for that; None: nothing is lacking.
    local_settings: str | None = None
    #: Whether its connection does not write, as it is to be.
    guarded = False
    #: SQL that undoes what was set for it; None: nothing is to be undone.
    undo: str | None = None
    #: Whether it is within the manager's layers: see `LeaseLayers`.
    layered = False
    #: Whether its connection was closed when it was to be given back, or by that.
    lost = False
    #: Whether its session has come to a limit of its own, as a driver has reported.
    at_its_limit = False
    #: What a web framework's integration does to its connection before a call gives it back; None:
    #: nothing.
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
        #: Seconds for all of the acquire.
        self.timeout = timeout
        #: For the driver's own acquire.
        self.kwargs = kwargs
        #: There until somebody begins to give it back. Deleting it is one step, which needs no
        #: lock: of several threads that do one alone succeeds.
        self.unreturned = True

    def move_to(self, lender: Any) -> None:
        """Be lent, and given back, by another one."""
        self._lender = lender

    def successor(self) -> "Lease[PoolT, ConnT]":
        """Make a lease of what this one has taken, and have this one hold nothing."""
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
        """Make the error of an application that uses it once more."""
        return HasqlError(
            "this acquire was used already; call acquire again for another connection"
        )
