"""A synchronous connection of psycopg 3 that any thread can abort, and that is found dead early."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import ref

from psycopg import Connection
from psycopg.pq import TransactionStatus

from hasql._adapters.fork_guard import cut_off_in_children
from hasql._adapters.kill_switch import KillSwitch
from hasql._adapters.psycopg.idle_look import LooksWhileIdle, note_notice

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.abc import PQGen

__all__ = ("ThreadConnection",)

_T = TypeVar("_T")
_IN_TRANSACTION = frozenset({TransactionStatus.INTRANS, TransactionStatus.INERROR})


class ThreadConnection(LooksWhileIdle, Connection[Any]):
    """A connection that any thread can abort, and that is found dead without asking the server."""

    #: Whether it was aborted, or the server has said that it ends it. This is not `closed`: as long
    #: as psycopg takes the connection for open, ending its transaction raises an error.
    lost = False
    #: Whether it was taken out of the pool since it was put there last.
    taken = True
    #: Whether it is one of the pool's.
    pooled = False

    #: How the application's class waits. Looking for it by super(), and handing on arguments that
    #: psycopg mostly leaves out, would cost each statement a fifth of a microsecond.
    inherited_wait: ClassVar[Callable[..., Any]] = Connection.wait

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._switch: KillSwitch | None = None
        self.lost = self.closed
        if not self.lost:
            self._switch = KillSwitch(self.fileno())
            cut_off_in_children(self, Connection.fileno)
        # The handler has a weak reference, so that the connection is freed when nobody needs it.
        self.add_notice_handler(partial(note_notice, ref(self)))

    def wait(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """Wait for what is running. psycopg calls this for each statement."""
        result: _T = (
            self.inherited_wait(gen, *args, **kwargs)
            if args or kwargs
            else self.inherited_wait(gen)
        )
        self._alive_at = monotonic()
        return result

    def abort(self) -> None:
        """Shut its socket down, whichever thread uses it; that one closes it."""
        self.lost = True
        if self._switch is not None:
            self._switch.shut_down()

    def close(self) -> None:
        """Close it, as psycopg does."""
        self.lost = True
        super().close()
        self.pgconn.finish()  # psycopg leaves a broken one to the collection of garbage
        if self._switch is not None:
            self._switch.close()

    def roll_back_or_close(self) -> None:
        """Roll an open transaction back. Where that is not possible, close the connection."""
        if not self.lost and self.pgconn.transaction_status in _IN_TRANSACTION:
            self.rollback()
            return
        self.abort()
        self.close()

    def check_by(self, check: Callable[[Any], None]) -> None:
        """Have the application check it; one that fails is of no use to anybody."""
        try:
            check(self)
        except BaseException:
            self.close()
            raise
