"""Answers to a look-up, as a caller gets them and as one nameserver gives them."""

from dataclasses import dataclass

__all__ = ("Answer", "QueryError", "Reply", "SrvAnswer", "SrvTarget")


@dataclass(frozen=True, slots=True)
class Answer:
    """The addresses of a name."""

    addresses: tuple[str, ...]
    """All of them, IPv4 before IPv6, each kind in the order of the nameserver's answer."""
    ttl: float
    """Seconds from now for which they may be kept; 0 when they are asked for anew each time."""


@dataclass(frozen=True, slots=True)
class SrvTarget:
    """Where a service is offered, by a record of RFC 2782."""

    host: str
    port: int
    priority: int
    """Lower is used first."""
    weight: int
    """Its share among those of the same priority."""


@dataclass(frozen=True, slots=True)
class SrvAnswer:
    """The targets of a service."""

    targets: tuple[SrvTarget, ...]
    """All of them, in the order of the nameserver's answer."""
    ttl: float
    """Seconds from now for which they may be kept."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a nameserver says well of one kind of records of a name."""

    exists: bool
    """Whether there is such a name, with records of whatever kind."""
    addresses: tuple[str, ...] = ()
    targets: tuple[SrvTarget, ...] = ()
    ttl: float = 0.0
    """Seconds: the least of the records and of all aliases on the way to them."""

    def __bool__(self) -> bool:
        """Whether it has any record of the kind that was asked for."""
        return bool(self.addresses or self.targets)


class QueryError(Exception):
    """A nameserver gave no good reply; the message is what it did, such as `answered SERVFAIL`."""
