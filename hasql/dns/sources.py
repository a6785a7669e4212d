"""The sources of a resolver's answers: the hosts file, nameservers, the system's resolver."""

from collections.abc import Callable
from typing import Final

from hasql.cluster.host import is_address
from hasql.dns.answers import Answer, QueryError, Reply
from hasql.dns.changing_file import ChangingFile
from hasql.dns.hosts_file import read_hosts
from hasql.dns.known_name import SHORTEST, KnownName
from hasql.dns.lookup import FoundRecords, NoRecords, Servers, look_up
from hasql.dns.settings import ResolverSettings
from hasql.dns.shared_name import Search
from hasql.dns.system import ask_system
from hasql.errors import ConfigurationError, MissingExtraError

__all__ = ("ADDRESSES", "SERVICE", "NameSearch", "Sources", "check_name")

ADDRESSES: Final = ("A", "AAAA")
SERVICE: Final = ("SRV",)
LONGEST_TTL: Final = float(2**31 - 1)
"""The longest TTL that DNS has, in seconds. An address given in place of a name has it."""


class Sources:
    """The sources that one resolver asks. Raises MissingExtraError without dnspython."""

    def __init__(self, settings: ResolverSettings, hosts_file: str, resolv_conf: str) -> None:
        try:
            from hasql.dns import queries  # noqa: PLC0415  # dnspython is an extra
        except ImportError as error:
            msg = "a Resolver needs dnspython: pip install 'hasql[dns]'"
            raise MissingExtraError(msg) from error
        self.settings = settings
        self._ask = queries.ask
        self._hosts = ChangingFile(hosts_file, read_hosts)
        self._resolv_conf = ChangingFile(resolv_conf, queries.read_resolv_conf)
        self._servers = Servers()

    def local_answer(self, host: str) -> Answer | None:
        """Return an answer that needs no nameserver: an address itself, or from the hosts file."""
        if is_address(host):
            return Answer((host,), LONGEST_TTL)
        found = self._hosts.contents().get(host.lower().rstrip("."))
        return None if found is None else Answer(found, SHORTEST)

    async def in_dns(
        self, host: str, kinds: tuple[str, ...], on_timeout: Callable[[], None]
    ) -> FoundRecords | NoRecords:
        """Look up a name; for addresses, the hosts file comes first."""
        if kinds == ADDRESSES and (local := self.local_answer(host)) is not None:
            replies = dict.fromkeys(kinds, Reply(exists=True))
            replies[kinds[0]] = Reply(exists=True, addresses=local.addresses, ttl=local.ttl)
            return FoundRecords(replies, whole=True)
        conf, settings = self._resolv_conf.contents(), self.settings
        try:
            names = conf.names_for(host)
        except QueryError as error:
            return NoRecords((str(error),), empty=False)
        return await look_up(
            names,
            kinds,
            settings.nameservers or conf.nameservers,
            self._servers,
            ask=self._ask,
            timeout=settings.timeout,
            attempts=settings.max_retries,
            on_timeout=on_timeout,
        )

    async def in_system(self, host: str) -> tuple[str, ...]:
        """Ask the system's resolver. Raises OSError."""
        return await ask_system(host, self.settings.timeout)


class NameSearch(Search):
    """How one name is looked up: its addresses, or its services."""

    def __init__(self, sources: Sources, host: str, kinds: tuple[str, ...]) -> None:
        self._sources = sources
        self._host = host
        self._kinds = kinds
        # The system's resolver knows only addresses.
        self.fallback = sources.settings.fallback and kinds == ADDRESSES

    def nothing_known(self) -> KnownName:
        """Make the state before the first look-up. Old SRV answers have no grace time."""
        settings = self._sources.settings
        grace_ttl = settings.grace_ttl if self._kinds == ADDRESSES else 0.0
        return KnownName(self._host, grace_ttl, extend_grace=settings.extend_grace)

    async def in_dns(self, on_timeout: Callable[[], None]) -> FoundRecords | NoRecords:
        """Look the name up, and call `on_timeout` for each attempt that gets no answer in time."""
        return await self._sources.in_dns(self._host, self._kinds, on_timeout)

    async def in_system(self) -> tuple[str, ...]:
        """Ask the system's resolver. Raises OSError."""
        return await self._sources.in_system(self._host)


def check_name(host: object) -> str:
    """Return `host` if it may be a name or an address.

    Raises ConfigurationError if not, and TypeError if it is not a str.
    """
    if not isinstance(host, str):
        msg = f"host must be a str, not {host!r}"
        raise TypeError(msg)
    if not host or host.startswith("/") or any(each.isspace() for each in host):
        msg = f"host must be a name or an address, not {host!r}"
        raise ConfigurationError(msg)
    return host
