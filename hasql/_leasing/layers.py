"""The layers around a lease: what lets an acquire in, and learns what becomes of its connection."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol

from hasql._leasing.lease import Lease
from hasql._routing.node import Node
from hasql.driver import ConnT, PoolT

__all__ = ("Layer", "LeaseLayers")


class Layer(Protocol):
    """One thing that stands around each lease, from before its acquire until its end.

    For threads its methods are called by several at once, and never under the manager's guard.
    """

    def enter(self, lease: Lease[Any, Any], deadline: float) -> Awaitable[None] | None:
        """Let a task's acquire in, or raise what refuses it; what is returned waits till then.

        None: it is in. It has to end by the deadline, by the clock. Cancelling what waits leaves
        nothing behind.
        """

    def enter_in_thread(self, lease: Lease[Any, Any], deadline: float) -> None:
        """Let a thread's acquire in, which may wait till the deadline, or raise what refuses it."""

    def lent(self, lease: Lease[Any, Any]) -> None:
        """Take note that an acquire that was let in has its connection."""

    def failed(self, lease: Lease[Any, Any], error: BaseException) -> None:
        """Take note that an acquire that was let in has ended without a connection."""

    def returned(
        self, lease: Lease[Any, Any], node: Node[Any, Any], error: BaseException | None
    ) -> None:
        """Take note that the connection is back; `error` is what ended its block, if anything did.

        Called once for each lease that was lent. By then the lease has no node any more.
        """


class LeaseLayers(Generic[PoolT, ConnT]):
    """The layers of one manager, the outermost first."""

    def __init__(self, layers: Sequence[Layer], clock: Callable[[], float]) -> None:
        self._layers = tuple(layers)
        self._inside_out = tuple(reversed(self._layers))
        self._clock = clock

    async def take(
        self,
        lease: Lease[PoolT, ConnT],
        take: Callable[[Lease[PoolT, ConnT], float], Awaitable[ConnT]],
    ) -> ConnT:
        """Take a connection for a task's lease, once each layer has let it in."""
        began = self._clock()
        deadline = began + lease.timeout
        lease.layered, entered = True, 0
        try:
            for layer in self._layers:
                if (waiting := layer.enter(lease, deadline)) is not None:
                    await waiting
                entered += 1
            connection = await take(lease, began)
        except BaseException as error:
            self._leave(lease, entered, error)
            raise
        for layer in self._layers:
            layer.lent(lease)
        return connection

    def take_in_thread(
        self,
        lease: Lease[PoolT, ConnT],
        take: Callable[[Lease[PoolT, ConnT], float], ConnT],
    ) -> ConnT:
        """Take a connection for a thread's lease, once each layer has let it in."""
        began = self._clock()
        deadline = began + lease.timeout
        lease.layered, entered = True, 0
        try:
            for layer in self._layers:
                layer.enter_in_thread(lease, deadline)
                entered += 1
            connection = take(lease, began)
        except BaseException as error:
            self._leave(lease, entered, error)
            raise
        for layer in self._layers:
            layer.lent(lease)
        return connection

    def _leave(self, lease: Lease[PoolT, ConnT], entered: int, error: BaseException) -> None:
        lease.layered = False
        for layer in self._inside_out[len(self._layers) - entered :]:
            layer.failed(lease, error)

    def returned(
        self, lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT], error: BaseException | None
    ) -> None:
        """Have each layer know that a connection is back."""
        if not lease.layered:
            return  # it stands for a connection that did not fit, and another one goes on
        lease.layered = False
        for layer in self._inside_out:
            layer.returned(lease, node, error)
