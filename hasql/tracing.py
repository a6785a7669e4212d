"""Tracing: callbacks that report single acquires and probes.

Counters (`hasql.metrics`) tell how often something happens, and events (`hasql.events`) what
happens to hosts. A tracer reports each acquire separately, for a log or for spans. Without a tracer
this costs nothing; with one, each record costs about two microseconds besides the callback itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Role

__all__ = (
    "AcquireBegun",
    "AcquireFailed",
    "AcquireRetried",
    "AcquireWaited",
    "ConnectionLent",
    "ConnectionReturned",
    "ProbeEnded",
    "Tracer",
)


@dataclass(frozen=True, slots=True)
class AcquireBegun:
    """An acquire has begun."""

    #: The number of the acquire, which all records of this acquire have in common.
    acquire: int
    #: What it asked for, in words: "master"; "replica, or master".
    request: str
    #: The seconds that the acquire has in all.
    timeout: float


@dataclass(frozen=True, slots=True)
class AcquireWaited:
    """An acquire has waited for a place on a host, and has one now."""

    acquire: int
    host: HostSpec
    seconds: float


@dataclass(frozen=True, slots=True)
class AcquireRetried:
    """An acquire failed on a host, or the host lost the role asked for; another try follows."""

    acquire: int
    host: HostSpec
    #: The error there. None: the connection led to the wrong role.
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class AcquireFailed:
    """An acquire has ended without a connection."""

    acquire: int
    seconds: float
    error: BaseException


@dataclass(frozen=True, slots=True)
class ConnectionLent:
    """An acquire has ended with a connection."""

    acquire: int
    host: HostSpec
    role: Role
    #: Since the beginning of the acquire.
    seconds: float


@dataclass(frozen=True, slots=True)
class ConnectionReturned:
    """A connection was given back."""

    acquire: int
    host: HostSpec
    #: Since it was lent, including the time that giving it back took.
    seconds: float
    #: The exception that ended its block, or that prevented giving it back. None: there was none.
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class ProbeEnded:
    """A host has answered a probe, or failed to."""

    host: HostSpec
    seconds: float
    #: The role that the answer shows; UNKNOWN if there was no answer.
    role: Role
    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracer:
    """Callbacks, each for one kind of record. None: that kind is not reported.

    Each is called where the thing happens, in the middle of an acquire, and must not wait. An
    exception that it raises is logged and goes no further. See `BasePoolManager.set_tracer`.
    """

    acquire_begun: Callable[[AcquireBegun], object] | None = None
    acquire_waited: Callable[[AcquireWaited], object] | None = None
    acquire_retried: Callable[[AcquireRetried], object] | None = None
    acquire_failed: Callable[[AcquireFailed], object] | None = None
    connection_lent: Callable[[ConnectionLent], object] | None = None
    connection_returned: Callable[[ConnectionReturned], object] | None = None
    probe_ended: Callable[[ProbeEnded], object] | None = None
