"""The targets of an SRV record as hosts."""

from collections.abc import Iterable
from typing import Final

from hasql.cluster.discovered import Discovered
from hasql.cluster.host import HostSpec
from hasql.discovery.by_name import NameDiscovery, checked_name
from hasql.dns import Resolver
from hasql.errors import NameResolutionError

__all__ = ("SrvDiscovery",)

_SERVICE: Final = "_postgresql._tcp."
# Domains in which the public cannot register names:
# https://www.rfc-editor.org/rfc/rfc6762#appendix-G and RFC 6761.
_PRIVATE: Final = frozenset(
    {"corp", "home", "internal", "intranet", "lan", "local", "localdomain", "private", "test"}
)
# Below the domain of a country, the public can register names in these domains, as in co.uk.
_REGISTRIES: Final = frozenset({"ac", "co", "com", "edu", "gov", "go", "ne", "net", "or", "org"})


class SrvDiscovery(NameDiscovery):
    """A source whose hosts are the targets of an SRV record (RFC 2782).

    Each target has a port, a priority and a weight. The record is looked up again when its TTL
    ends, and each second while no master is known. Certificates are checked against the targets.

    Passwords are sent to the hosts that DNS names. So a target must lie in the parent domain of the
    name: for ``db.example.com`` that is ``example.com``. An answer with any other target changes
    nothing, and is reported as a failure.

    Args:
        name: The name to look up. ``_postgresql._tcp.`` is put before it, unless it begins with
            ``_``.
        resolver: Looks the name up; None: a `Resolver` with default settings.
        allowed_domains: Further domains in which targets may lie.

    Raises:
        ConfigurationError: `name` or one of `allowed_domains` is not a name.
        MissingExtraError: dnspython is not installed.
        TypeError: An argument has the wrong type.
    """

    def __init__(
        self,
        name: str,
        *,
        resolver: Resolver | None = None,
        allowed_domains: Iterable[str] = (),
    ) -> None:
        given = checked_name(name)
        super().__init__(given if given.startswith("_") else f"{_SERVICE}{given}", resolver)
        if isinstance(allowed_domains, str):
            raise TypeError(f"allowed_domains must be a sequence: [{allowed_domains!r}]")
        allowed = [checked_name(domain.removeprefix(".")) for domain in allowed_domains]
        self._domains = tuple(dict.fromkeys([_domain_of(self.name), *allowed]))

    async def look_up(self) -> tuple[list[Discovered], float]:
        """Return the targets, those with the lowest priority number first, and the TTL."""
        answer = await self.resolver.lookup_srv_async(self.name)
        hosts = [
            Discovered(
                HostSpec(self._checked(target.host), target.port),
                priority=target.priority,
                weight=target.weight,
            )
            for target in answer.targets
        ]
        return sorted(hosts, key=lambda found: (found.priority, found.host)), answer.ttl

    def _checked(self, target: str) -> str:
        """Return a target without its trailing dot, if a password may be sent to it.

        Raises NameResolutionError if not.
        """
        host = target.rstrip(".").lower()
        if any(f".{host}".endswith(f".{domain}") for domain in self._domains):
            return host
        raise NameResolutionError(
            f"the SRV record of {self.name} leads to {host}, which is not in "
            f"{' or '.join(self._domains)}; if it is to be trusted, give allowed_domains="
        )


def _domain_of(name: str) -> str:
    """Return the domain in which a name's targets are trusted: its parent, unless that is public.

    If the public can register names in the parent, only the name and names below it are trusted.
    """
    labels = name.split(".")
    while len(labels) > 1 and labels[0].startswith("_"):
        labels = labels[1:]
    parent = labels[1:]
    if len(parent) == 1:
        shared = parent[0] not in _PRIVATE
    else:
        shared = len(parent) == 2 and len(parent[1]) == 2 and parent[0] in _REGISTRIES  # noqa: PLR2004  # co.uk
    return ".".join(labels if shared or not parent else parent)
