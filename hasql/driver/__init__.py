"""What an adapter owes the core, and the tools that it may use for that."""

from hasql.driver.arguments import PoolSizes, check_keywords, check_sizes
from hasql.driver.contract import AsyncPool, ConnT, Driver, DriverPool, PoolT, Session, ThreadPool
from hasql.driver.endpoint import Endpoint
from hasql.driver.failure import Failure

__all__ = (
    "AsyncPool",
    "ConnT",
    "Driver",
    "DriverPool",
    "Endpoint",
    "Failure",
    "PoolSizes",
    "PoolT",
    "Session",
    "ThreadPool",
    "check_keywords",
    "check_sizes",
)
