"""A host as a source of hosts describes it."""

from dataclasses import KW_ONLY, dataclass

from hasql.cluster.checks import check_count, check_flag, check_whole
from hasql.cluster.host import HostSpec, parse_host
from hasql.errors import ConfigurationError

__all__ = ("Discovered",)


@dataclass(frozen=True, slots=True)
class Discovered:
    """A host that a source has found, and what the source says of it.

    Raises:
        ConfigurationError: The host is not a valid one, or a number is out of its range.
        TypeError: A value has a wrong type.
    """

    host: HostSpec
    _: KW_ONLY
    never_master: bool = False
    """Whether the host is never used as a master, whatever it answers."""
    never_replica: bool = False
    """Whether the host is never used as a replica."""
    priority: int = 0
    """Hosts with the lowest priority are used first; the others while those are away or full."""
    weight: int = 1
    """Its share beside hosts of the same priority, for policies that respect it; 0: hardly any."""
    label: str | None = None
    """The label that the source gives it."""

    def __post_init__(self) -> None:
        """Check the values; the host's name is put in lower case, as in a DSN."""
        if not isinstance(self.host, HostSpec):
            raise TypeError(f"host must be a HostSpec, not {self.host!r}")
        try:  # a name with a comma, for example, would be two hosts to a driver
            host = parse_host(str(self.host))
        except (TypeError, ConfigurationError) as error:
            raise ConfigurationError(f"{self.host!r} cannot be a host: {error}") from None
        object.__setattr__(self, "host", host)
        check_flag("never_master", self.never_master)
        check_flag("never_replica", self.never_replica)
        check_whole("priority", self.priority)
        check_count("weight", self.weight)
        if not isinstance(self.label, str | None):
            raise TypeError(f"label must be a str or None, not {self.label!r}")
