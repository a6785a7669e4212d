"""Answers to a look-up: those that a caller gets, and those that one nameserver gives."""

from dataclasses import dataclass

__all__ = ("Answer", "QueryError", "Reply", "SrvAnswer", "SrvTarget")


@dataclass(frozen=True, slots=True)
class Answer:
    """The addresses of a name."""

    addresses: tuple[str, ...]
    """All addresses, IPv4 before IPv6, each kind in the order of the nameserver's answer."""
    ttl: float
    """Seconds from now for which they may be kept; 0 if they are looked up again each time."""


@dataclass(frozen=True, slots=True)
class SrvTarget:
    """One place where a service is offered: one SRV record (RFC 2782)."""

    host: str
    port: int
    priority: int
    """Targets with a lower number are used first."""
    weight: int
    """The target's share among those of the same priority."""


@dataclass(frozen=True, slots=True)
class SrvAnswer:
    """The targets of a service."""

    targets: tuple[SrvTarget, ...]
    """All targets, in the order of the nameserver's answer."""
    ttl: float
    """Seconds from now for which they may be kept."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A nameserver's valid reply about one kind of records of a name."""

    exists: bool
    """Whether the name exists, with records of any kind."""
    addresses: tuple[str, ...] = ()
    targets: tuple[SrvTarget, ...] = ()
    ttl: float = 0.0
    """Seconds: the lowest TTL of the records and of all aliases on the way to them."""

    def __bool__(self) -> bool:
        """Whether there is any record of the kind that was asked for."""
        return bool(self.addresses or self.targets)


class QueryError(Exception):
    """A nameserver gave no valid reply; the message says what it did, as `answered SERVFAIL`."""
