"""Addresses: what stands in a DSN, and what a middle man leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from hasql.cluster.dsn import Dsn

if TYPE_CHECKING:
    from hasql.testing import LocalCluster

__all__ = ("Address", "Place", "dsn_through")


class Address(Protocol):
    """A server or a middle man: whatever listens."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


class Place(NamedTuple):
    """An address that is nothing else."""

    host: str
    port: int


def dsn_through(cluster: LocalCluster, *ways: Address) -> str:
    """Return the DSN of the application's role that leads over these addresses, in this order."""
    parsed = Dsn.parse(cluster.dsn)
    hosts = ",".join(f"{way.host}:{way.port}" for way in ways)
    return f"postgresql://{parsed.user}:{parsed.password}@{hosts}/{parsed.dbname}"
