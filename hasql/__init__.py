"""Connections to the right server of a replicated PostgreSQL cluster.

Import the `PoolManager` of your driver: ``from hasql.asyncpg import PoolManager``.
"""

from hasql.errors import (
    ConfigurationError,
    HasqlError,
    MissingExtraError,
    NotAvailableError,
    PoolManagerClosedError,
    UnknownConnectionError,
    WrongEventLoopError,
)

__all__ = (
    "ConfigurationError",
    "HasqlError",
    "MissingExtraError",
    "NotAvailableError",
    "PoolManagerClosedError",
    "UnknownConnectionError",
    "WrongEventLoopError",
)

__version__ = "0.1.0"
