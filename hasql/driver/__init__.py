"""What an adapter owes the core, and the tools that it may use for that."""

from hasql.driver.arguments import PoolSizes, check_keywords, check_sizes
from hasql.driver.contract import ConnT, Driver, DriverPool, PoolT, Session
from hasql.driver.endpoint import Endpoint
from hasql.driver.failure import Failure

__all__ = (
    "ConnT",
    "Driver",
    "DriverPool",
    "Endpoint",
    "Failure",
    "PoolSizes",
    "PoolT",
    "Session",
    "check_keywords",
    "check_sizes",
)
