"""The layers around a lease: they let an acquire in, and learn what becomes of its connection."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic

from hasql._leasing.lease import Lease
from hasql._routing.node import Node
from hasql.driver import ConnT, PoolT
from hasql.errors import NotAvailableError

__all__ = ("Layer", "LeaseLayers")


class Layer:
    """One layer around each lease, from before its acquire until its end.

    Several threads may call its methods at once, never under the manager's guard. A thread may be
    interrupted anywhere, so `failed` and `returned` may be called twice for one lease, and `failed`
    for a lease that was not let in. They then have to do what is left to be done, or nothing.

    Derive from this class. Methods that are not overridden are not called.
    """

    def enter(self, lease: Lease[Any, Any], deadline: float) -> Awaitable[None] | None:
        """Let a task's acquire in at once, or return an awaitable that waits until it is in.

        Returns None if the acquire is in. Either way a refusal is raised. The awaitable has to end
        by the deadline, by the clock. Cancelling it leaves nothing behind.
        """
        del lease, deadline
        return None

    def enter_in_thread(self, lease: Lease[Any, Any], deadline: float) -> None:
        """Let a thread's acquire in, or raise a refusal; may wait until the deadline."""

    def lent(self, lease: Lease[Any, Any]) -> None:
        """Take note that an acquire that was let in has its connection."""

    def failed(self, lease: Lease[Any, Any], error: BaseException) -> None:
        """Take note that an acquire has ended without a connection."""

    def returned(
        self, lease: Lease[Any, Any], node: Node[Any, Any], error: BaseException | None
    ) -> None:
        """Take note that the connection is back; `error` is what its block raised, or None.

        Called for each lease that was lent. By then the lease has no node any more.
        """


class LeaseLayers(Generic[PoolT, ConnT]):
    """The layers of one manager, the outermost first."""

    def __init__(self, layers: Sequence[Layer], clock: Callable[[], float]) -> None:
        self._clock = clock
        #: The methods that take note of a connection that is lent. The checkout calls them.
        self.lent = [layer.lent for layer in layers if _defines(layer, "lent")]
        self._enter = [layer.enter for layer in layers if _defines(layer, "enter")]
        self._enter_in_thread = [
            layer.enter_in_thread for layer in layers if _defines(layer, "enter_in_thread")
        ]
        inside_out = list(reversed(layers))
        self._failed = [layer.failed for layer in inside_out if _defines(layer, "failed")]
        self._returned = [layer.returned for layer in inside_out if _defines(layer, "returned")]
        #: Whether any layer lets acquires in, or is told of their failures. If none does, an
        #: acquire need not pay for `take`.
        self.told_of_acquires = bool(self._enter or self._enter_in_thread or self._failed)
        #: Whether any layer is told of connections that come back.
        self.told_of_returns = bool(self._returned)

    async def take(
        self,
        lease: Lease[PoolT, ConnT],
        take: Callable[[Lease[PoolT, ConnT], float], Awaitable[ConnT]],
    ) -> ConnT:
        """Take a connection for a task's lease, once each layer has let it in."""
        began = self._clock()
        deadline = began + lease.timeout
        lease.in_layers = True
        try:
            for enter in self._enter:
                if (waiting := enter(lease, deadline)) is not None:
                    await waiting
            return await take(lease, began)
        except BaseException as error:
            self._leave(lease, error)
            if isinstance(error, NotAvailableError):
                # A task that is refused without having waited, and asks again, must not starve the
                # loop.
                await asyncio.sleep(0)
            raise

    def take_in_thread(
        self,
        lease: Lease[PoolT, ConnT],
        take: Callable[[Lease[PoolT, ConnT], float], ConnT],
    ) -> ConnT:
        """Take a connection for a thread's lease, once each layer has let it in."""
        began = self._clock()
        deadline = began + lease.timeout
        lease.in_layers = True
        try:
            for enter in self._enter_in_thread:
                enter(lease, deadline)
            return take(lease, began)
        except BaseException as error:
            try:
                self._leave(lease, error)
            except BaseException:  # interrupted: the layers allow a second call
                self._leave(lease, error)
                raise
            raise

    def _leave(self, lease: Lease[PoolT, ConnT], error: BaseException) -> None:
        lease.in_layers = False
        for failed in self._failed:
            failed(lease, error)

    def returned(
        self, lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT], error: BaseException | None
    ) -> None:
        """Tell each layer that a connection is back; a second call does no harm."""
        if not lease.in_layers:
            return  # the lease of a connection that did not fit: the acquire goes on with another
        for returned in self._returned:
            returned(lease, node, error)
        lease.in_layers = False  # last, so that an interrupted caller may call this again


def _defines(layer: Layer, method: str) -> bool:
    return getattr(type(layer), method) is not getattr(Layer, method)
