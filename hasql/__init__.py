"""Connections to the right server of a replicated PostgreSQL cluster.

Import the `PoolManager` of your driver: ``from hasql.asyncpg import PoolManager``.
"""

from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion, Health
from hasql.errors import (
    BreakerOpenError,
    ConfigurationError,
    HasqlError,
    LeaseTerminatedError,
    MissingExtraError,
    NameResolutionError,
    NotAvailableError,
    OverloadedError,
    PoolManagerClosedError,
    RateLimitedError,
    RolledBackError,
    StaleReadError,
    UnknownConnectionError,
    WrongEventLoopError,
)

__all__ = (
    "BreakerOpenError",
    "ConfigurationError",
    "Exclusion",
    "HasqlError",
    "Health",
    "HostSpec",
    "LeaseTerminatedError",
    "MissingExtraError",
    "NameResolutionError",
    "NotAvailableError",
    "OverloadedError",
    "PoolManagerClosedError",
    "RateLimitedError",
    "Role",
    "RolledBackError",
    "StaleReadError",
    "UnknownConnectionError",
    "WrongEventLoopError",
)

__version__ = "0.1.0"
