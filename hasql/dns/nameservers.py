"""Nameservers in the form in which a user gives them."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from hasql.errors import ConfigurationError

__all__ = ("DEFAULT_PORT", "Nameserver", "parse_nameservers")

DEFAULT_PORT: Final = 53
_LAST_PORT = 65535
_IPV6 = 6


@dataclass(frozen=True, slots=True)
class Nameserver:
    """The address and port of a nameserver."""

    address: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return host if self.port == DEFAULT_PORT else f"{host}:{self.port}"


def parse_nameservers(name: str, given: Iterable[str] | None) -> tuple[Nameserver, ...] | None:
    """Read nameservers such as ``10.0.0.2``, ``10.0.0.2:5353``, ``[::1]`` or ``[::1]:5353``.

    `name` is the name of the argument, for errors. None, which means those of resolv.conf, stays
    None. Raises ConfigurationError if one is not an address or there is none, and TypeError if
    `given` is not a list of strings.
    """
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Iterable):
        msg = f"{name} must be a list of nameservers, such as ['10.0.0.2:53'], not {given!r}"
        raise TypeError(msg)
    servers = tuple(_parse(name, each) for each in given)
    if not servers:
        msg = f"{name} is empty; None means those of resolv.conf"
        raise ConfigurationError(msg)
    return servers


def _parse(name: str, given: object) -> Nameserver:
    if not isinstance(given, str):
        msg = f"{name} must hold strings, such as '10.0.0.2:53', not {given!r}"
        raise TypeError(msg)
    text = given.strip()
    bracketed = text.startswith("[")
    if bracketed:
        host, closing, rest = text[1:].partition("]")
    else:
        host, closing, rest = text, "]", ""
        if text.count(":") == 1:
            host, _, rest = text.partition(":")
            rest = f":{rest}"
    try:
        version = ip_address(host).version
    except ValueError:
        msg = (
            f"{name}: {given!r} is not an address; a nameserver is written as '10.0.0.2', "
            "'10.0.0.2:5353', '[::1]' or '[::1]:5353'"
        )
        raise ConfigurationError(msg) from None
    if bracketed != (version == _IPV6) or not closing or (rest and rest[0] != ":"):
        msg = f"{name}: an IPv6 address must be in brackets, '[::1]' or '[::1]:5353': {given!r}"
        raise ConfigurationError(msg)
    return Nameserver(host, _port(name, given, rest[1:]) if rest else DEFAULT_PORT)


def _port(name: str, given: str, text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= _LAST_PORT:
        return int(text)
    msg = f"{name}: the port of {given!r} must be a number from 1 to {_LAST_PORT}"
    raise ConfigurationError(msg)
