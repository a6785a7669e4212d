"""Tracing: what happens to single acquires and probes, told by callbacks.

Counters (`hasql.metrics`) tell how often, events (`hasql.events`) what becomes of hosts; a tracer
tells of each acquire by itself, for a log or for spans. Without one it costs nothing; with one,
each record about two microseconds besides what the callback does.
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

    #: Its number, by which the records of one acquire belong together.
    acquire: int
    #: What it asked for, in words: "master"; "replica, or master".
    request: str
    #: Seconds that it has in all.
    timeout: float


@dataclass(frozen=True, slots=True)
class AcquireWaited:
    """An acquire has waited for a place on a host, and has one now."""

    acquire: int
    host: HostSpec
    seconds: float


@dataclass(frozen=True, slots=True)
class AcquireRetried:
    """A host has failed an acquire, or has lost the role asked for; another try follows."""

    acquire: int
    host: HostSpec
    #: What was met there; None: the connection led to the wrong role.
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
    #: From its beginning.
    seconds: float


@dataclass(frozen=True, slots=True)
class ConnectionReturned:
    """A connection was given back."""

    acquire: int
    host: HostSpec
    #: From when it was lent, with what giving back took.
    seconds: float
    #: What ended its block, or kept it from being given back, if an exception did.
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class ProbeEnded:
    """A host has answered a probe, or failed to."""

    host: HostSpec
    seconds: float
    #: What it is by its answer; UNKNOWN if there is none.
    role: Role
    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracer:
    """Callbacks, each for one kind of record; None: not of interest.

    They are called where it happens, in the middle of an acquire, and must not wait. What they
    raise is logged and goes no further. See `BasePoolManager.set_tracer`.
    """

    acquire_begun: Callable[[AcquireBegun], object] | None = None
    acquire_waited: Callable[[AcquireWaited], object] | None = None
    acquire_retried: Callable[[AcquireRetried], object] | None = None
    acquire_failed: Callable[[AcquireFailed], object] | None = None
    connection_lent: Callable[[ConnectionLent], object] | None = None
    connection_returned: Callable[[ConnectionReturned], object] | None = None
    probe_ended: Callable[[ProbeEnded], object] | None = None
