"""Where the hosts of a cluster come from."""

from hasql.discovery.contract import Ask, Discovered, Discovery
from hasql.discovery.static import StaticDiscovery

__all__ = ("Ask", "Discovered", "Discovery", "StaticDiscovery")
