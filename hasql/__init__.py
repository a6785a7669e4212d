"""Connections to the right server of a replicated PostgreSQL cluster.

Import the `PoolManager` of your driver: ``from hasql.asyncpg import PoolManager``.
"""

from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion, Health
from hasql.errors import (
    ConfigurationError,
    HasqlError,
    MissingExtraError,
    NameResolutionError,
    NotAvailableError,
    PoolManagerClosedError,
    RolledBackError,
    UnknownConnectionError,
    WrongEventLoopError,
)

__all__ = (
    "ConfigurationError",
    "Exclusion",
    "HasqlError",
    "Health",
    "HostSpec",
    "MissingExtraError",
    "NameResolutionError",
    "NotAvailableError",
    "PoolManagerClosedError",
    "Role",
    "RolledBackError",
    "UnknownConnectionError",
    "WrongEventLoopError",
)

__version__ = "0.1.0"
