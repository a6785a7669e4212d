"""What is known of one name: its last good answer, how long that serves, what failed since."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from hasql.cluster.names import NameHistory
from hasql.dns.answers import Reply, SrvTarget

__all__ = ("FAILURE_TTL", "SHORTEST", "Known", "KnownName", "Unknown")

SHORTEST: Final = 1.0
"""Seconds from one look-up of a name to the next, whatever its TTL is."""
FAILURE_TTL: Final = 1.0
"""Seconds for which a failure is not tried again."""
LONGEST_GRACE: Final = 300.0
"""Seconds that the window of an old answer grows to at most."""
PARTIAL_TTL: Final = 5.0
"""Seconds for which an answer serves at most in which one kind of addresses is missing."""
SYSTEM_TTL: Final = 5.0
"""Seconds for which an answer of the system's resolver serves, which tells no TTL."""


@dataclass(frozen=True, slots=True)
class Known:
    """What may be used: records, and the seconds for which they may be kept."""

    addresses: tuple[str, ...]
    targets: tuple[SrvTarget, ...]
    ttl: float


@dataclass(frozen=True, slots=True)
class Unknown:
    """What each one that was asked said instead of a good answer."""

    said: tuple[str, ...]


class KnownName:
    """Times are those of a monotonic clock that is handed in.

    Told and asked under its resolver's lock, but for what says that it is not.
    """

    def __init__(self, host: str, grace_ttl: float, *, extend_grace: bool) -> None:
        self.host = host
        self._grace_ttl = grace_ttl
        self._extend_grace = extend_grace
        self.history = NameHistory()
        self.addresses: tuple[str, ...] = ()
        self.targets: tuple[SrvTarget, ...] = ()
        #: Failures in a row.
        self.failures = 0
        #: Whether the last answer is the system's, as no nameserver gave one.
        self.from_system = False
        #: By kind: what the last answer said that was good in this respect.
        self._replies: dict[str, Reply] = {}
        self._ttl = 0.0
        self._asked_at = 0.0
        self._said: tuple[str, ...] = ()
        #: When the last answer is old, and when the next look-up may and should be.
        self._fresh_until = 0.0
        self._due = -inf

    # What it was told.

    def succeeded(self, replies: Mapping[str, Reply], asked_at: float, *, whole: bool) -> None:
        """Note a good answer; if it is not whole, what was known of the kinds it lacks stays."""
        self.failures, self._said, self.from_system = 0, (), False
        self._replies = {**self._replies, **replies}
        known = [self._replies[kind] for kind in sorted(self._replies)]
        ttl = min(reply.ttl for reply in replies.values() if reply)
        self.targets = tuple(target for reply in known for target in reply.targets)
        addresses = tuple(address for reply in known for address in reply.addresses)
        self._take(addresses, asked_at, ttl if whole else min(ttl, PARTIAL_TTL))

    def failed(self, said: tuple[str, ...], now: float) -> None:
        """Note what was said instead of a good answer; who says so counts `failures`."""
        self._said = said
        self._asked_at = now
        self._due = now + FAILURE_TTL

    def system_answered(self, addresses: tuple[str, ...], now: float) -> None:
        """Note what the system's resolver said, after the nameservers had failed."""
        self.from_system = True
        self._replies = {}
        self._take(addresses, now, SYSTEM_TTL)

    def expire(self, now: float) -> None:
        """Let what is known be old, but no sooner than a second after it was asked for."""
        old_at = max(now, self._asked_at + SHORTEST)
        self._fresh_until = min(self._fresh_until, old_at)
        self._due = min(self._due, old_at)

    # What is asked. None of these needs the lock: at worst the last answer but one is told.

    @property
    def window(self) -> float:
        """Seconds for which an old answer serves, from the end of its TTL on."""
        if not self.failures:
            # It is being looked up, and nobody should wait for that just because it takes a moment.
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
        """Whether there was a good answer."""
        return bool(self.addresses or self.targets)

    @property
    def asks_each_time(self) -> bool:
        """Whether its answer says that it may not be kept at all."""
        return self._ttl == 0.0

    def may_serve(self, now: float) -> bool:
        """Whether the last answer may be used, fresh or old."""
        return self.is_known and now < self._fresh_until + self.window

    def until_due(self, now: float) -> float:
        """Return the seconds until it should be looked up."""
        return max(0.0, self._due - now)

    def outcome(self, now: float) -> Known | Unknown:
        """Return what a caller gets who has waited for a look-up, or need not."""
        # That a good answer's time was over before it arrived makes it no worse for this caller.
        if self.is_known and (not self.failures or self.may_serve(now)):
            left = 0.0 if self.asks_each_time else max(0.0, self._fresh_until - now)
            return Known(self.addresses, self.targets, left)
        return Unknown(self._said)

    def _take(self, addresses: tuple[str, ...], asked_at: float, ttl: float) -> None:
        self.addresses = addresses
        self._ttl, self._asked_at = ttl, asked_at
        # From the question on: the TTL began at the nameserver, before its answer was here.
        self._fresh_until = self._due = asked_at + max(ttl, SHORTEST)
        self.history.answered(self.addresses, asked_at)
