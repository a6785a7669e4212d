"""Where the hosts of a cluster come from."""

from hasql.discovery.contract import Discovery
from hasql.discovery.static import StaticDiscovery

__all__ = ("Discovery", "StaticDiscovery")
