"""What is known of one name: its last valid answer, how long that serves, and failures since."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from hasql.cluster.names import NameHistory
from hasql.dns.answers import Reply, SrvTarget

__all__ = ("FAILURE_TTL", "SHORTEST", "Known", "KnownName", "Unknown")

SHORTEST: Final = 1.0
"""The least number of seconds from one look-up of a name to the next, whatever its TTL."""
FAILURE_TTL: Final = 1.0
"""Seconds after a failure before the next look-up."""
LONGEST_GRACE: Final = 300.0
"""The most seconds that the grace time of an old answer grows to."""
PARTIAL_TTL: Final = 5.0
"""The most seconds that an answer serves in which one kind of addresses is missing."""
SYSTEM_TTL: Final = 5.0
"""Seconds that an answer of the system's resolver serves, because it comes without a TTL."""


@dataclass(frozen=True, slots=True)
class Known:
    """A usable answer: records, and the seconds for which they may be kept."""

    addresses: tuple[str, ...]
    targets: tuple[SrvTarget, ...]
    ttl: float


@dataclass(frozen=True, slots=True)
class Unknown:
    """No usable answer: what each source said instead."""

    reasons: tuple[str, ...]


class KnownName:
    """The state of one name. Times are those of a monotonic clock, which callers pass in.

    Methods are called under the lock of the `SharedName`, except where a comment says otherwise.
    """

    def __init__(self, host: str, grace_ttl: float, *, extend_grace: bool) -> None:
        self.host = host
        self._grace_ttl = grace_ttl
        self._extend_grace = extend_grace
        self.history = NameHistory()
        self.addresses: tuple[str, ...] = ()
        self.targets: tuple[SrvTarget, ...] = ()
        #: The number of failures in a row.
        self.failures = 0
        #: Whether the last answer came from the system's resolver, because no nameserver gave one.
        self.from_system = False
        #: By kind of record, the last valid reply.
        self._replies: dict[str, Reply] = {}
        self._ttl = 0.0
        self._asked_at = 0.0
        self._reasons: tuple[str, ...] = ()
        #: When the last answer becomes old, and from when on the next look-up may and should begin.
        self._fresh_until = 0.0
        self._due = -inf

    # Changes

    def succeeded(self, replies: Mapping[str, Reply], asked_at: float, *, whole: bool) -> None:
        """Note a valid answer; if it lacks a kind, the last reply of that kind stays."""
        self.failures, self._reasons, self.from_system = 0, (), False
        self._replies = {**self._replies, **replies}
        known = [self._replies[kind] for kind in sorted(self._replies)]
        ttl = min(reply.ttl for reply in replies.values() if reply)
        self.targets = tuple(target for reply in known for target in reply.targets)
        addresses = tuple(address for reply in known for address in reply.addresses)
        self._take(addresses, asked_at, ttl if whole else min(ttl, PARTIAL_TTL))

    def failed(self, reasons: tuple[str, ...], now: float) -> None:
        """Note what was said instead of a valid answer; the caller counts `failures`."""
        self._reasons = reasons
        self._asked_at = now
        self._due = now + FAILURE_TTL

    def system_answered(self, addresses: tuple[str, ...], now: float) -> None:
        """Note the answer of the system's resolver, after the nameservers have failed."""
        self.from_system = True
        self._replies = {}
        self._take(addresses, now, SYSTEM_TTL)

    def expire(self, now: float) -> None:
        """Make the last answer count as old, but not before it is one second old."""
        old_at = max(now, self._asked_at + SHORTEST)
        self._fresh_until = min(self._fresh_until, old_at)
        self._due = min(self._due, old_at)

    # Queries. None of these needs the lock. One that races with a new answer may return the answer
    # before it, which is harmless.

    @property
    def grace_time(self) -> float:
        """The grace time: seconds for which an old answer serves after the end of its TTL."""
        if not self.failures:
            # A look-up is under way, and no caller should have to wait just because it takes a
            # moment.
            return max(self._grace_ttl, SHORTEST)
        if not self._extend_grace:
            return self._grace_ttl
        grown = self._grace_ttl * 2.0 ** min(self.failures - 1, 60)
        return min(grown, max(LONGEST_GRACE, self._grace_ttl))

    def is_fresh(self, now: float) -> bool:
        """Whether the last answer is within its TTL."""
        return self.is_known and now < self._fresh_until

    @property
    def is_known(self) -> bool:
        """Whether there was a valid answer."""
        return bool(self.addresses or self.targets)

    @property
    def asks_each_time(self) -> bool:
        """Whether the last answer may not be kept at all, because its TTL is 0."""
        return self._ttl == 0.0

    def may_serve(self, now: float) -> bool:
        """Whether the last answer may be used, fresh or old."""
        return self.is_known and now < self._fresh_until + self.grace_time

    def until_due(self, now: float) -> float:
        """Return the seconds until the name should be looked up again."""
        return max(0.0, self._due - now)

    def outcome(self, now: float) -> Known | Unknown:
        """Return the answer for a caller that has waited for a look-up, or need not wait."""
        # A valid answer may be used by a caller that waited for it, even if its TTL ended on the
        # way.
        if self.is_known and (not self.failures or self.may_serve(now)):
            left = 0.0 if self.asks_each_time else max(0.0, self._fresh_until - now)
            return Known(self.addresses, self.targets, left)
        return Unknown(self._reasons)

    def _take(self, addresses: tuple[str, ...], asked_at: float, ttl: float) -> None:
        self.addresses = addresses
        self._ttl, self._asked_at = ttl, asked_at
        # Counted from the question: the TTL began at the nameserver, before the answer arrived.
        self._fresh_until = self._due = asked_at + max(ttl, SHORTEST)
        self.history.answered(self.addresses, asked_at)
