"""Every address of a name as a host of its own."""

from ipaddress import ip_address

from hasql.cluster.discovered import Discovered
from hasql.cluster.host import DEFAULT_PORT, HostSpec
from hasql.discovery.by_name import NameDiscovery, checked_name
from hasql.dns import Resolver

__all__ = ("DnsDiscovery",)


class DnsDiscovery(NameDiscovery):
    """Every address of a name is a host, as a headless service of Kubernetes has one for each pod.

    Certificates and password files go by the name. The addresses are looked up again when their
    TTL ends, and each second while no master is known.

    Args:
        name: The name.
        port: The port of all hosts.
        resolver: What looks it up; None: one with the settings that `Resolver` has by itself.

    Raises:
        ConfigurationError: What is no name, or no port.
        MissingExtraError: dnspython is not installed.
        TypeError: An argument of a wrong type.
    """

    def __init__(
        self, name: str, port: int = DEFAULT_PORT, *, resolver: Resolver | None = None
    ) -> None:
        super().__init__(checked_name(name), resolver)
        self._port = Discovered(HostSpec(self.name, port)).host.port

    async def look_up(self) -> tuple[list[Discovered], float]:
        """Return a host for each address, in the order of the addresses."""
        answer = await self.resolver.lookup_async(self.name)
        addresses = sorted(answer.addresses, key=_number)
        hosts = [HostSpec(self.name, self._port, address) for address in addresses]
        return [Discovered(host) for host in hosts], answer.ttl


def _number(address: str) -> tuple[int, int]:
    read = ip_address(address)
    return read.version, int(read)
