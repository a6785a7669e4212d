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
# https://www.rfc-editor.org/rfc/rfc6762#appendix-G and RFC 6761: nobody registers names in these.
_PRIVATE: Final = frozenset(
    {"corp", "home", "internal", "intranet", "lan", "local", "localdomain", "private", "test"}
)
# Below the letters of a country anybody registers names in these, as in co.uk.
_REGISTRIES: Final = frozenset({"ac", "co", "com", "edu", "gov", "go", "ne", "net", "or", "org"})


class SrvDiscovery(NameDiscovery):
    """The targets and ports of an SRV record, as in RFC 2782, each with its priority and weight.

    Passwords go to hosts that DNS proposes. So a target has to lie in the parent domain of the
    name: for ``db.example.com`` in ``example.com``. An answer with any other changes nothing, and
    is told of as a failure. Certificates are checked against the targets. The record is looked up
    again when its TTL ends, and each second while no master is known.

    Args:
        name: The name: ``_postgresql._tcp.`` is put before it, unless it begins with ``_``.
        resolver: What looks it up; None: one with the settings that `Resolver` has by itself.
        allowed_domains: Domains in which targets may lie as well.

    Raises:
        ConfigurationError: What is no name.
        MissingExtraError: dnspython is not installed.
        TypeError: An argument of a wrong type.
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
        """Return the targets, those of the lowest priority first."""
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
        """Return a target without its last dot, if it may be sent a password."""
        host = target.rstrip(".").lower()
        if any(f".{host}".endswith(f".{domain}") for domain in self._domains):
            return host
        raise NameResolutionError(
            f"the SRV record of {self.name} leads to {host}, which is not in "
            f"{' or '.join(self._domains)}; if it is to be trusted, give allowed_domains="
        )


def _domain_of(name: str) -> str:
    """Return the domain in which targets of a name are trusted: its parent, unless all share it."""
    labels = name.split(".")
    while len(labels) > 1 and labels[0].startswith("_"):
        labels = labels[1:]
    parent = labels[1:]
    if len(parent) == 1:
        shared = parent[0] not in _PRIVATE
    else:
        shared = len(parent) == 2 and len(parent[1]) == 2 and parent[0] in _REGISTRIES  # noqa: PLR2004  # co.uk
    return ".".join(labels if shared or not parent else parent)
