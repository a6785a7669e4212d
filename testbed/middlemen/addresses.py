"""Addresses: those in a DSN, and those that a middle man leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from hasql.cluster.dsn import Dsn

if TYPE_CHECKING:
    from hasql.testing import LocalCluster

__all__ = ("Address", "Place", "dsn_through")


class Address(Protocol):
    """Anything that listens: a server or a middle man."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


class Place(NamedTuple):
    """A plain address."""

    host: str
    port: int


def dsn_through(cluster: LocalCluster, *ways: Address) -> str:
    """Return the DSN of the application's role with these addresses, in this order."""
    parsed = Dsn.parse(cluster.dsn)
    hosts = ",".join(f"{way.host}:{way.port}" for way in ways)
    return f"postgresql://{parsed.user}:{parsed.password}@{hosts}/{parsed.dbname}"
