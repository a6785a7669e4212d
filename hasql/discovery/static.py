"""The hosts that stand in the DSN."""

from collections.abc import AsyncIterator

from hasql.cluster.dsn import HostSpec

__all__ = ("StaticDiscovery",)


class StaticDiscovery:
    """The hosts that a DSN names; they never change."""

    def __init__(self, hosts: tuple[HostSpec, ...]) -> None:
        self._hosts = hosts

    async def watch(self) -> AsyncIterator[tuple[HostSpec, ...]]:
        """Yield the hosts of the DSN once."""
        yield self._hosts
