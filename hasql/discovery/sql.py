"""What sources that ask the servers themselves have in common."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from hasql.cluster.discovered import Discovered
from hasql.discovery.contract import Ask, Discovery
from hasql.discovery.polling import Polling

__all__ = ("SqlDiscovery",)

_INTERVAL = 10.0
"""Seconds between two questions, give or take a quarter."""


class SqlDiscovery(Discovery):
    """Hosts that one query tells, about every ten seconds; each second while no master is known."""

    _query: ClassVar[str]

    def __init__(self) -> None:
        self._polling = Polling(_INTERVAL)

    async def watch(self, ask: Ask) -> AsyncIterator[tuple[Discovered, ...]]:
        """Yield the hosts each time they have been asked for.

        Raises:
            ValueError: The answer is none, or holds a row that is no host.
        """
        while True:
            hosts = tuple([self._read(row) for row in await ask(self._query)])
            if not hosts:
                raise ValueError("the query has found no host")
            yield hosts
            await self._polling.pause()

    def refresh(self) -> None:
        """Ask again now, or one second after the last question."""
        self._polling.hurry()

    @abstractmethod
    def _read(self, row: Mapping[str, Any]) -> Discovered:
        """Make a host of a row. Raises ValueError or TypeError if it is none."""
