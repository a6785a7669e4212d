"""Runs the queries of a source of hosts over a reserved connection of its own."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Generic

from hasql._manager.options import Options
from hasql._manager.own_session import OwnSession
from hasql._manager.routing_state import RoutingState
from hasql._routing.node import Node
from hasql.cluster.state import Health
from hasql.driver import ConnT, Driver, Failure, PoolT
from hasql.driver.judgement import judge_error
from hasql.errors import NotAvailableError

__all__ = ("DiscoveryQueries",)

# All rows as one value in hexadecimal digits, which COPY need not escape: see `Session.fetch_row`.
_ALL_ROWS = """
SELECT encode(convert_to(coalesce(json_agg(asked), '[]')::text, 'UTF8'), 'hex') FROM ({}) AS asked
"""


class DiscoveryQueries(Generic[PoolT, ConnT]):
    """Asks one host after the other, beginning with the master, until one answers.

    The connection is kept for the next question, while its host is still the first to be asked.
    """

    def __init__(
        self, driver: Driver[PoolT, ConnT], options: Options, routing: RoutingState[PoolT, ConnT]
    ) -> None:
        self._driver = driver
        self._routing = routing
        self._session = OwnSession(driver, options)
        self._one_at_a_time = asyncio.Lock()

    async def ask(self, sql: str) -> list[dict[str, Any]]:
        """Run a query; see `hasql.discovery.Ask`."""
        async with self._one_at_a_time:
            met, silent = "no host is known", None
            for node in self._order():
                if node is silent:
                    continue
                try:
                    row = await self._ask(node, _ALL_ROWS.format(sql))
                except Exception as error:
                    if judge_error(self._driver, error) is Failure.STATEMENT:
                        raise
                    silent = node if isinstance(error, TimeoutError) else None
                    met = f"{node.host}: {type(error).__name__}: {error}"
                else:
                    rows: list[dict[str, Any]] = json.loads(bytes.fromhex(row))
                    return rows
            raise NotAvailableError(f"no host has answered: {met}")

    def _order(self) -> list[Node[PoolT, ConnT]]:
        """Return the nodes to ask, in order.

        The first comes twice if the connection to it is still open: the server may have restarted
        since, and the connection may be dead.
        """
        nodes = list(self._candidates())
        again = nodes and nodes[0] is self._session.node
        return [nodes[0], *nodes] if again else nodes

    def _candidates(self) -> Iterator[Node[PoolT, ConnT]]:
        """Yield masters, then replicas, then nodes out of routing, those that are down last."""
        routing = self._routing
        down = {s.host for s in routing.topology.nodes if s.health is Health.DOWN}
        rest = sorted(routing.nodes.values(), key=lambda node: node.host in down)
        yield from dict.fromkeys([*routing.masters, *routing.replicas, *rest])

    async def _ask(self, node: Node[PoolT, ConnT], sql: str) -> str:
        [value] = await self._session.fetch_row(node, sql)
        assert value is not None  # noqa: S101  # `coalesce` sees to that
        return value

    def close(self) -> None:
        """Close the connection, if one is open."""
        self._session.close()
