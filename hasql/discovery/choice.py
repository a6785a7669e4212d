"""The choice of a source of hosts: the one that the application gives or its DSN asks for."""

from hasql.cluster.dsn import Dsn
from hasql.cluster.host_source import HostSource
from hasql.discovery.contract import Discovery, asks_by_sql
from hasql.discovery.dns import DnsDiscovery
from hasql.discovery.patroni import PatroniDiscovery
from hasql.discovery.srv import SrvDiscovery
from hasql.discovery.static import StaticDiscovery
from hasql.dns import Resolver
from hasql.errors import ConfigurationError

__all__ = ("choose_source",)


def choose_source(dsn: Dsn, given: Discovery | None, resolver: Resolver | None = None) -> Discovery:
    """Return the source that was given, or make the one that the DSN asks for.

    `resolver` looks up names for the latter; None: a `Resolver` with default settings.

    Raises:
        ConfigurationError: A source is given and the DSN asks for one as well, or the source needs
            a host to begin with and the DSN names none.
        MissingExtraError: A library that the source needs is not installed.
        TypeError: `given` is not a Discovery.
    """
    if given is None:
        return (
            StaticDiscovery(dsn.hosts)
            if dsn.source is None
            else _source_of_dsn(dsn.source, resolver)
        )
    if not isinstance(given, Discovery):
        raise TypeError(f"discovery must be an object of a subclass of Discovery, not {given!r}")
    if dsn.source is not None:
        raise ConfigurationError(
            f"the DSN asks for discovery={dsn.source.kind}, and discovery={given} is given; keep "
            "one of the two"
        )
    if not dsn.hosts and asks_by_sql(given):
        raise ConfigurationError(
            f"{given} asks the servers themselves: name a host in the DSN to begin with"
        )
    return given


def _source_of_dsn(source: HostSource, resolver: Resolver | None) -> Discovery:
    [name, *_] = source.names
    if source.kind == "srv":
        return SrvDiscovery(name.host, resolver=resolver)
    if source.kind == "dns":
        return DnsDiscovery(name.host, name.port, resolver=resolver)
    return PatroniDiscovery.of_hosts(
        source.names,
        port=int(source.param("patroni_port") or 8008),
        scheme=source.param("patroni_scheme") or "http",
        ca=source.param("patroni_ca"),
        auth_file=source.param("patroni_auth_file"),
    )
