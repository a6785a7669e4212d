"""How asyncpg's pool resets a connection that is given back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hasql._adapters.hooks import RunningHooks
from hasql.driver.stepping import begin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from hasql._adapters.asyncpg.connection import RawConnection
    from hasql.driver.destinations import Destinations
    from hasql.driver.session_settings import SessionSettings

__all__ = ("ConnectionResets",)


class ConnectionResets:
    """The resets of one pool's connections: the application's hook, or asyncpg's own query.

    Either may undo settings of the pool, which are made again afterwards.
    """

    def __init__(
        self,
        hook: Callable[[Any], Awaitable[None]] | None,
        settings: SessionSettings,
        known: Destinations,
        ended: Callable[[Hashable], None],
    ) -> None:
        self._hook = hook
        self._settings = settings
        self._running = RunningHooks()
        self._undone = known.undone_by_reset
        #: Called with the key of each connection whose reset has ended.
        self._ended = ended
        self.end = self._running.end

    async def run(self, connection: RawConnection) -> None:
        """Reset a connection.

        asyncpg may run this in a task that is never awaited, so it raises nothing if the connection
        was aborted meanwhile.
        """
        # Written as one coroutine, and a hook that does not pause gets none around it: each further
        # layer would slow every release down.
        key = connection.get_settings()
        try:
            query = ""
            if self._hook is not None:
                if (rest := begin(self._hook(connection))) is not None:
                    await self._running.run(key, rest)
            else:
                query = connection.get_reset_query()
            if key in self._undone:
                query += f"\n{self._settings.query(self._undone[key])};"
            if query:
                await connection.execute(query)
        except Exception:
            if not connection.is_closed():
                raise
        finally:
            self._ended(key)
