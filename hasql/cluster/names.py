"""What is known of where a name leads: which addresses it has left, and whether it rotates."""

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from typing import Final

__all__ = ("NameHistory", "plain_address")

ROTATING_ABSENCE: Final = 60.0
"""Seconds for which an address must be missing before a name that rotates has left it."""

_MISSING_KEPT = 1000


class NameHistory:
    """The addresses that a name has and had, by its answers.

    If an address comes back after it had left, the name is marked as rotating: each of its answers
    shows only some of its addresses, as with a cloud's reader endpoint. From then on an address
    counts as left only when it has been missing for 60 seconds.

    One thread reports the answers; any thread may ask, and none needs a lock.
    """

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()
        """The addresses of the last good answer, in its order; none before the first."""
        self.rotates = False
        """Whether an address has come back after it had left."""
        self._present: frozenset[str] = frozenset()
        # Since when each address has been missing; the one that left longest ago is first.
        self._missing_since: dict[str, float] = {}

    def answered(self, addresses: Sequence[str], now: float) -> None:
        """Note a good answer. An empty answer is not a good one, and changes nothing."""
        present = frozenset(map(plain_address, addresses))
        if not present:
            return
        if present == self._present:
            self.addresses = tuple(addresses)
            return
        missing = dict(self._missing_since)
        for address in self._present - present:
            missing[address] = now
        back = present & missing.keys()
        for address in back:
            del missing[address]
        while len(missing) > _MISSING_KEPT:
            del missing[next(iter(missing))]
        # A thread that asks meanwhile finds the former answer or the new one.
        if back:
            self.rotates = True
        self._missing_since = missing
        self._present = present
        self.addresses = tuple(addresses)

    def has_left(self, address: str, now: float) -> bool:
        """Whether the name no longer leads to this address; False before the first answer."""
        present = self._present
        if address in present or not present:
            return False
        address = plain_address(address)
        if address in present:
            return False
        if not self.rotates:
            return True
        # An address that no answer has shown yet comes from a resolver of the driver's own. It
        # counts as missing from the moment we hear of it.
        return now - self._missing_since.setdefault(address, now) >= ROTATING_ABSENCE


def plain_address(address: str) -> str:
    """Write an address as all other parts do, so that the same address is the same text.

    An IPv4 address that a dual-stack socket shows as IPv6 becomes the IPv4 address. Anything that
    is not an address, such as the directory of a Unix socket, stays as it is.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)
