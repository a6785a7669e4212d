"""The hosts file, which takes precedence over all nameservers."""

from collections.abc import Mapping
from ipaddress import ip_address

__all__ = ("read_hosts",)


def read_hosts(text: str) -> Mapping[str, tuple[str, ...]]:
    """Return the addresses of each name in a hosts file, IPv4 first. Names are in lower case."""
    found: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        try:
            version = ip_address(address).version
        except ValueError:
            continue
        for name in names:
            found.setdefault(name.lower(), {})[address] = version
    return {name: tuple(sorted(each, key=each.__getitem__)) for name, each in found.items()}
