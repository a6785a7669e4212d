"""A source that makes a host of every address of a name."""

from ipaddress import ip_address

from hasql.cluster.discovered import Discovered
from hasql.cluster.host import DEFAULT_PORT, HostSpec
from hasql.discovery.by_name import NameDiscovery, checked_name
from hasql.dns import Resolver

__all__ = ("DnsDiscovery",)


class DnsDiscovery(NameDiscovery):
    """A source whose hosts are the addresses of a name.

    A headless service of Kubernetes is an example: its name has an address for each pod. The name
    is what certificates and password files are matched against. The addresses are looked up again
    when their TTL ends, and each second while no master is known.

    Args:
        name: The name to look up.
        port: The port of all hosts. Default: 5432.
        resolver: Looks the name up; None: a `Resolver` with default settings.

    Raises:
        ConfigurationError: `name` is not a name, or `port` is not a port.
        MissingExtraError: dnspython is not installed.
        TypeError: An argument has the wrong type.
    """

    def __init__(
        self, name: str, port: int = DEFAULT_PORT, *, resolver: Resolver | None = None
    ) -> None:
        super().__init__(checked_name(name), resolver)
        self._port = Discovered(HostSpec(self.name, port)).host.port

    async def look_up(self) -> tuple[list[Discovered], float]:
        """Return a host for each address, sorted by address, and the TTL."""
        answer = await self.resolver.lookup_async(self.name)
        addresses = sorted(answer.addresses, key=_number)
        hosts = [HostSpec(self.name, self._port, address) for address in addresses]
        return [Discovered(host) for host in hosts], answer.ttl


def _number(address: str) -> tuple[int, int]:
    read = ip_address(address)
    return read.version, int(read)
