"""Hosts that never change."""

from collections.abc import AsyncIterator, Iterable

from hasql.cluster.discovered import Discovered
from hasql.cluster.host import HostSpec
from hasql.discovery.contract import Discovery
from hasql.errors import ConfigurationError

__all__ = ("StaticDiscovery",)


class StaticDiscovery(Discovery):
    """Hosts that never change, such as those that a DSN names.

    Args:
        hosts: The hosts, each as a `HostSpec`, or as a `Discovered` that says more about it.

    Raises:
        ConfigurationError: There is no host.
        TypeError: A host is neither a HostSpec nor a Discovered.
    """

    def __init__(self, hosts: Iterable[HostSpec | Discovered]) -> None:
        self._hosts = tuple(
            host if isinstance(host, Discovered) else Discovered(host) for host in hosts
        )
        if not self._hosts:
            raise ConfigurationError("StaticDiscovery has no host; name at least one")

    async def watch(self) -> AsyncIterator[tuple[Discovered, ...]]:
        """Yield the hosts once."""
        yield self._hosts
