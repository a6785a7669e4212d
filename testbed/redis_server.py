"""A Redis server for tests: it holds the rates that several managers share."""

from __future__ import annotations

from hasql.testing._ports import free_ports
from testbed.middlemen.program import Program

__all__ = ("RedisServer",)


class RedisServer(Program):
    """A server with a password; use it in ``with``."""

    name = "redis-server"
    password = "s3cr3t-of-redis"  # noqa: S105  # the server exists only during a test

    def __init__(self) -> None:
        super().__init__()
        self.port = 0

    @property
    def url(self) -> str:
        """The URL of the server, with its password."""
        return f"redis://:{self.password}@{self.host}:{self.port}/0"

    def configure(self) -> list[str]:
        self.port = self.port or free_ports(1)[0]
        lines = [
            f"bind {self.host}",
            f"port {self.port}",
            f"requirepass {self.password}",
            'save ""',
            "appendonly no",
            f"dir {self.directory}",
        ]
        return [self.write("redis.conf", "\n".join(lines) + "\n")]

    @property
    def listening(self) -> list[int]:
        return [self.port]
