"""Where the hosts of a cluster come from."""

from hasql.cluster.discovered import Discovered
from hasql.discovery.aurora import AuroraDiscovery
from hasql.discovery.contract import Ask, Discovery
from hasql.discovery.dns import DnsDiscovery
from hasql.discovery.patroni import PatroniDiscovery
from hasql.discovery.rds import RdsDiscovery
from hasql.discovery.srv import SrvDiscovery
from hasql.discovery.static import StaticDiscovery

__all__ = (
    "Ask",
    "AuroraDiscovery",
    "Discovered",
    "Discovery",
    "DnsDiscovery",
    "PatroniDiscovery",
    "RdsDiscovery",
    "SrvDiscovery",
    "StaticDiscovery",
)
