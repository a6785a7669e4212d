"""The common part of sources that ask the servers themselves by SQL."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from hasql.cluster.discovered import Discovered
from hasql.discovery.contract import Ask, Discovery
from hasql.discovery.polling import Polling

__all__ = ("SqlDiscovery",)

_INTERVAL = 10.0
"""Seconds between two queries, plus or minus a quarter."""


class SqlDiscovery(Discovery):
    """A source that runs one query about every ten seconds; each second if no master is known."""

    _query: ClassVar[str]

    def __init__(self) -> None:
        self._polling = Polling(_INTERVAL)

    async def watch(self, ask: Ask) -> AsyncIterator[tuple[Discovered, ...]]:
        """Yield the hosts each time the query has run.

        Raises:
            ValueError: The query has found no host, or a row that is no host.
        """
        while True:
            hosts = tuple([self._read(row) for row in await ask(self._query)])
            if not hosts:
                raise ValueError("the query found no host")
            yield hosts
            await self._polling.pause()

    def refresh(self) -> None:
        """Run the query again now, but not sooner than one second after the last time."""
        self._polling.hurry()

    @abstractmethod
    def _read(self, row: Mapping[str, Any]) -> Discovered:
        """Make a host from a row. Raises ValueError or TypeError if the row is no host."""
