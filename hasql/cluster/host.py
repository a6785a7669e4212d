"""One host: how it is written and how it is read.

No error quotes what it was given; see `hasql.cluster.dsn`.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import unquote

from hasql.errors import ConfigurationError

__all__ = (
    "DEFAULT_PORT",
    "UNUSABLE",
    "HostSpec",
    "bracketed",
    "decode",
    "is_address",
    "parse_host",
    "read_port",
    "require_str",
    "split_host",
)

DEFAULT_PORT: Final = 5432
_MAX_PORT: Final = 65535
_BAD_PERCENT = re.compile(r"%(?![0-9a-fA-F]{2})")
UNUSABLE = re.compile("[\0\ud800-\udfff]")
_NAME = re.compile(r"[\w.-]+", re.ASCII)
_NAME_PORT = re.compile(r"(?P<name>[^:\[\]]*)(?::(?P<port>[^:]*))?")
_BRACKETS_PORT = re.compile(r"\[(?P<name>[^\[\]:]*:[^\[\]]*)\](?::(?P<port>.*))?", re.DOTALL)
_NAME_ADDRESS_PORT = re.compile(r"(?P<name>[^:/\[\]]+)\[(?P<address>[^\[\]]+)\](?::(?P<port>.*))?")
_DIRECTORY_PORT = re.compile(r"(?P<name>/.*):(?P<port>[0-9]+)", re.DOTALL)
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True, order=True)
class HostSpec:
    """The address of one server."""

    host: str
    """A name, an address (IPv6 without brackets) or the absolute directory of a Unix socket."""
    port: int
    address: str = ""
    """The address to dial; certificates and password files still go by `host`. Empty: any address
    of the name."""

    def __str__(self) -> str:
        """`db1:5432`, `[::1]:5432`, `/run/postgresql:5432` or, with an address, `db[::1]:5432`.

        `parse_host` reads each of them.
        """
        name = f"{self.host}[{self.address}]" if self.address else bracketed(self.host)
        return f"{name}:{self.port}"


def parse_host(text: str, default_port: int = DEFAULT_PORT) -> HostSpec:
    """Read one host: `db1`, `db1:5433`, `::1`, `[::1]`, `[::1]:5433`, `/run/pg`, `/run/pg:5433`.

    `db[10.0.0.1]:5433` is a host that is dialled at a given address; see `HostSpec`.

    A host that is written without a port gets `default_port`. With a `default_port` of 0 the caller
    can tell such a host from others.

    Raises:
        ConfigurationError: The text is anything else.
        TypeError: The text is not a str.

    """
    require_str(text)
    if UNUSABLE.search(text):
        raise ConfigurationError("the host contains a NUL or a lone surrogate")
    if directory := _DIRECTORY_PORT.fullmatch(text.strip()):
        name, port = _read_name(directory["name"], "the host"), directory["port"]
        return HostSpec(name, read_port(port, "the port of the host"))
    if pinned := _NAME_ADDRESS_PORT.fullmatch(text.strip()):
        name, address = _read_name(pinned["name"], "the host"), _read_address(pinned["address"])
        port = (
            default_port
            if pinned["port"] is None
            else read_port(pinned["port"], "the port of the host")
        )
        return HostSpec(name, port, address)
    name, own_port = split_host(text, "the host", in_url=False)
    if not name:
        raise ConfigurationError("the host is empty")
    return HostSpec(name, own_port or default_port)


def is_address(host: str) -> bool:
    """Tell whether a host is an address and not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def require_str(text: object) -> None:
    """Refuse anything but a str. Raises TypeError."""
    if not isinstance(text, str):
        raise TypeError(f"a DSN or host must be a str, not {type(text).__name__}")


def decode(text: str, where: str) -> str:
    """Undo percent-encoding. Raises a ConfigurationError that names the place, not the text."""
    if _BAD_PERCENT.search(text):
        raise ConfigurationError(
            f"{where} has a '%' without two hexadecimal digits; write '%' itself as %25"
        )
    # Undecodable bytes become lone surrogates here; errors="strict" would raise and quote them.
    decoded = unquote(text, errors="surrogateescape")
    if UNUSABLE.search(decoded):
        raise ConfigurationError(
            f"{where} is not UTF-8 once its percent-encoding is decoded, or contains a NUL"
        )
    return decoded


def bracketed(name: str) -> str:
    """Return a host as it is written before a port: an IPv6 address in brackets."""
    return f"[{name}]" if ":" in name and not name.startswith("/") else name


def split_host(text: str, where: str, *, in_url: bool) -> tuple[str, int | None]:
    """Split one host into its name, which may be empty, and its port, if it has one."""
    text = text.strip()
    if not in_url and (text.startswith("/") or (text.count(":") > 1 and text[0] != "[")):
        return _read_name(text, where), None
    host = _BRACKETS_PORT.fullmatch(text) or _NAME_PORT.fullmatch(text)
    if not host:
        raise ConfigurationError(
            f"{where} is not of the form name:port; put an IPv6 address in brackets"
        )
    name = decode(host["name"], where) if in_url else host["name"]
    port = None if host["port"] is None else read_port(host["port"], f"the port of {where}")
    return _read_name(name.strip(), where), port


def _read_name(name: str, where: str) -> str:
    if name.startswith("/"):
        if "," in name:
            raise ConfigurationError(
                f"{where} is a directory with a comma, which drivers take for two hosts"
            )
        return name
    if ":" in name:
        _, percent, zone = name.partition("%")
        if not percent or _NAME.fullmatch(zone):
            with suppress(ValueError):
                return str(IPv6Address(name))
        raise ConfigurationError(f"{where} is not a valid IPv6 address")
    if name and not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{where} is not a host name, an address or an absolute directory; a name has ASCII "
            "letters, digits, '.', '-' and '_', an international one its xn-- form"
        )
    return name.lower()


def _read_address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ConfigurationError("the host has no IP address in its brackets") from None


def read_port(text: str, where: str) -> int:
    """Read a port. Raises ConfigurationError."""
    text = text.strip()
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= _MAX_PORT:
        raise ConfigurationError(f"{where} is not a number from 1 to {_MAX_PORT}")
    return int(text)
