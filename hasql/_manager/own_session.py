"""A session of the manager's own, besides those of the monitors, for occasional questions."""

import asyncio
from collections.abc import Sequence
from typing import Generic

from hasql._manager.options import Options
from hasql._probing.stall_timer import StallTimer
from hasql._routing.node import Node
from hasql.driver import ConnT, Driver, PoolT, Session
from hasql.driver.connects import PendingConnects

__all__ = ("OwnSession",)


class OwnSession(Generic[PoolT, ConnT]):
    """Asks one host at a time, and keeps the connection as long as the same host is asked."""

    def __init__(self, driver: Driver[PoolT, ConnT], options: Options) -> None:
        self._driver = driver
        self._options = options
        self._connects = PendingConnects()
        self._session: Session | None = None
        #: The host that was asked last, while the connection is open.
        self.node: Node[PoolT, ConnT] | None = None

    async def fetch_row(self, node: Node[PoolT, ConnT], sql: str) -> Sequence[str | None]:
        """Ask one host. If anything goes wrong on the connection, it is closed.

        Raises TimeoutError if there is no answer within `refresh_timeout` seconds.
        """
        loop, options = asyncio.get_running_loop(), self._options
        with StallTimer(loop, options.clock, options.refresh_timeout) as limit:
            try:
                return await self._ask(node, sql, limit)
            except BaseException as error:
                self.close()
                if limit.ended and isinstance(error, Exception):
                    raise TimeoutError(f"no answer within {options.refresh_timeout:g} s") from None
                raise

    async def _ask(
        self, node: Node[PoolT, ConnT], sql: str, limit: StallTimer
    ) -> Sequence[str | None]:
        session = await self._session_on(node, limit)
        with limit.ending(session.kill):
            row = await session.fetch_row(sql)
        if node.endpoint.has_left(session.address):
            raise ConnectionError(
                "the server that was asked is not where the host's name leads any more"
            )
        return row

    async def _session_on(self, node: Node[PoolT, ConnT], limit: StallTimer) -> Session:
        session = self._session
        if (
            session is not None
            and self.node is node
            and not (session.closed or node.endpoint.has_left(session.address))
        ):
            return session
        self.close()
        connect = self._driver.connect(node.endpoint, self._options.pool_factory_kwargs, _lost)
        with limit.ending(self._connects.end):
            session = await self._connects.run(connect, lambda opened: opened.kill())
        self._session, self.node = session, node
        return session

    def close(self) -> None:
        """Close the connection, if one is open or is being opened."""
        self._connects.end()
        session, self._session, self.node = self._session, None, None
        if session is not None:
            session.kill()


def _lost() -> None:
    pass  # the next question finds that out
