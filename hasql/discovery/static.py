"""The hosts that stand in the DSN."""

from collections.abc import AsyncIterator, Iterable

from hasql.cluster.host import HostSpec
from hasql.discovery.contract import Discovery

__all__ = ("StaticDiscovery",)


class StaticDiscovery(Discovery):
    """Hosts that never change, such as those that a DSN names."""

    def __init__(self, hosts: Iterable[HostSpec]) -> None:
        self._hosts = tuple(hosts)

    async def watch(self) -> AsyncIterator[tuple[HostSpec, ...]]:
        """Yield the hosts once."""
        yield self._hosts
