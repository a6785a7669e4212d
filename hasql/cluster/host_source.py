"""The source from which a DSN says that its hosts come, if it does not list them.

No error quotes what it was given; see `hasql.cluster.dsn`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hasql.cluster.host import HostSpec, is_address, read_port
from hasql.errors import ConfigurationError

__all__ = ("HostSource", "read_source")

Kind = Literal["dns", "patroni", "srv"]

_KINDS: Final[Mapping[str, Kind]] = {"dns": "dns", "patroni": "patroni", "srv": "srv"}
_KEYWORDS: Final = ("patroni_port", "patroni_scheme", "patroni_ca", "patroni_auth_file")


@dataclass(frozen=True, slots=True)
class HostSource:
    """The source that a DSN asks for; drivers are told nothing of it."""

    kind: Kind
    params: tuple[tuple[str, str], ...] = ()
    """The parameters for Patroni, in the order given: `patroni_port` and so on."""
    names: tuple[HostSpec, ...] = ()
    """The hosts as they stand in the DSN; for `dns` and `srv` there is one name."""

    def param(self, keyword: str) -> str | None:
        """Return the value of a parameter in the DSN; None: it is not there."""
        return dict(self.params).get(keyword)

    def check(self, ports: Sequence[int | None]) -> None:
        """Refuse names that this source cannot ask for; `ports` are those written in the DSN.

        Raises ConfigurationError.
        """
        asked, hosts = f"discovery={self.kind}", [host.host for host in self.names]
        if any(host.startswith("/") for host in hosts):
            raise ConfigurationError(f"{asked} takes names, but the DSN has a Unix socket")
        if self.kind == "patroni":
            return
        if len(hosts) != 1:
            raise ConfigurationError(
                f"{asked} takes one name, but the DSN has {len(hosts)}; to list the hosts, drop "
                f"{asked}"
            )
        if is_address(hosts[0]):
            raise ConfigurationError(
                f"{asked} takes a name, but the DSN has an address; drop {asked}"
            )
        if self.kind == "srv" and any(ports):
            raise ConfigurationError(
                f"with {asked} ports come from the SRV record; drop the one in the DSN"
            )

    @property
    def query(self) -> tuple[tuple[str, str], ...]:
        """The part of a URL's query that asks for this source."""
        return ("discovery", self.kind), *self.params


def read_source(options: dict[str, str], *, srv: bool) -> HostSource | None:
    """Take the options of a source out of a DSN's options. None: the DSN lists its hosts.

    `srv` tells whether the scheme asks for SRV records. Raises ConfigurationError.
    """
    asked = options.pop("discovery", "") or ("srv" if srv else "static")
    params = tuple(
        (keyword, options.pop(keyword)) for keyword in (*options,) if keyword in _KEYWORDS
    )
    if asked != "static" and asked not in _KINDS:
        known = ", ".join(sorted({"static", *_KINDS}))
        raise ConfigurationError(f"discovery in the DSN must be one of {known}")
    if srv and asked != "srv":
        raise ConfigurationError(
            "the DSN begins with postgresql+srv:// and asks for something else with discovery=; "
            "keep one of the two"
        )
    if params and asked != "patroni":
        raise ConfigurationError(
            f"{params[0][0]} in the DSN applies only to discovery=patroni; add that, or drop this"
        )
    for keyword, value in params:
        if keyword == "patroni_port":
            read_port(value, "patroni_port in the DSN")
        elif keyword == "patroni_scheme" and value not in {"http", "https"}:
            raise ConfigurationError("patroni_scheme in the DSN is neither http nor https")
    return None if asked == "static" else HostSource(_KINDS[asked], params)
