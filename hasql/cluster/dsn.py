"""Connection strings: one that names every host of a cluster, and those made from it for one host.

The syntax is libpq's, with one rule of hasql's own: a port at the very end of the host list, and
nowhere else in it, is the port of all hosts.
https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING

No error quotes what it was given: one unencoded character in a password moves pieces of the
password anywhere in the string, so that any part may hold a piece. Errors name parts by their
place. No error is raised while another one is handled, either, because that one would quote it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from types import MappingProxyType
from urllib.parse import quote

from hasql.cluster.host import (
    DEFAULT_PORT,
    UNUSABLE,
    HostSpec,
    bracketed,
    decode,
    read_port,
    require_str,
    split_host,
)
from hasql.cluster.host_source import HostSource, read_source
from hasql.cluster.redaction import SECRET_PARAMETERS, redact
from hasql.errors import ConfigurationError

__all__ = ("Dsn",)


_URL = re.compile(
    r"(?:postgresql|postgres)(?:\+(?P<driver>\w+))?://"
    r"(?:(?P<userinfo>[^/?]*)@)?(?P<hosts>[^/?@]*)(?:/(?P<dbname>[^?]*))?(?:\?(?P<query>.*))?",
    re.ASCII | re.DOTALL | re.IGNORECASE,
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

# As conninfo_parse() of libpq reads it: a backslash escapes inside and outside of quotes, and a
# quote is an ordinary character except at the beginning of a value.
_KEYWORD_VALUE = re.compile(
    r"""\s* (?P<keyword>[^=\s]+) \s*=\s*+
    (?: '(?P<quoted>(?:[^'\\]|\\.)*)' | (?!')(?P<plain>(?:[^\s\\]|\\.)*\\?) ) \s*""",
    re.ASCII | re.DOTALL | re.VERBOSE,
)
_KEYWORD = re.compile(r"[a-z_][\w.]*", re.ASCII | re.IGNORECASE)

_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)


# An '@' anywhere else in a query may end a password that has an unencoded '/' or '?'.
_MAY_HOLD_AT = frozenset({"application_name", "options", "password", "sslpassword", "user"})
# Parameters that make a driver choose among hosts, and the value that leaves the choice to hasql.
_ROUTING = {"target_session_attrs": "any", "load_balance_hosts": "disable"}


@dataclass(frozen=True, slots=True, repr=False)
class Dsn:
    """The content of a connection string; its `str()` and `repr()` hide the password."""

    hosts: tuple[HostSpec, ...]
    """In the order given, without duplicates; empty if `source` has to be asked for them."""
    user: str | None = None
    password: str | None = None
    dbname: str | None = None
    params: tuple[tuple[str, str], ...] = ()
    """All other parameters, in the order given."""
    driver: str | None = field(default=None, compare=False)
    """The name after a plus in SQLAlchemy's URLs: `asyncpg` in `postgresql+asyncpg://`."""
    source: HostSource | None = None
    """The source of the hosts. None: they are `hosts`, or the application gives them."""

    @classmethod
    def parse(cls, text: str, *, plus_is_space: bool = False, hosts_needed: bool = True) -> "Dsn":
        """Read a URL or libpq's keyword/value form.

        As in libpq, a parameter in a URL's query takes precedence over the same thing before the
        query, '+' and '#' mean themselves, and the last of several equal parameters counts. But
        repeated `host=`, `port=` and `plugin=` in a query add up, as they do in SQLAlchemy. With
        `plus_is_space` a '+' in a query is a space, as in asyncpg and SQLAlchemy. `hosts_needed` is
        False if the application has its own source of hosts.

        Raises:
            ConfigurationError: The text cannot be parsed, names no host, or asks the driver to
                choose a host.
            TypeError: The text is not a str.

        """
        require_str(text)
        if UNUSABLE.search(text):
            raise ConfigurationError(
                "the DSN contains a NUL or a lone surrogate, which no server accepts"
            )
        driver = None
        if url := _URL.fullmatch(text.strip()):
            options, authority = _read_url(url, plus_is_space=plus_is_space), url["hosts"]
            driver = url["driver"] and url["driver"].lower()
        elif _SCHEME.match(text.lstrip()):
            raise ConfigurationError(
                "the scheme of the DSN is not one of PostgreSQL's; begin it with postgresql://"
            )
        else:
            options, authority = _read_keywords(text), ""
        _drop_routing(options)
        source = read_source(options, srv=driver == "srv")
        hosts, ports = _read_hosts(authority, options, needed=hosts_needed or source is not None)
        if source is not None:
            source = replace(source, names=hosts)
            source.check(ports)
        return cls(
            hosts=hosts if source is None or source.kind == "patroni" else (),
            user=options.pop("user", None) or None,
            password=options.pop("password", None) or None,
            dbname=options.pop("dbname", None) or None,
            params=tuple(options.items()),
            driver=None if driver == "srv" else driver,
            source=source,
        )

    def __len__(self) -> int:
        """Return the number of hosts."""
        return len(self.hosts)

    def __iter__(self) -> Iterator["Dsn"]:
        """Iterate over DSNs of one host each, in order; their `str()` hides the password, too."""
        return (replace(self, hosts=(host,)) for host in self.hosts)

    def for_host(self, host: HostSpec) -> str:
        """Return a URL for `host` alone, password included: for the driver, not for a log.

        `host` need not be one of `hosts`. asyncpg and libpq read the URL alike. SQLAlchemy
        before 2.1 does not decode the database name; give it `dbname` separately.
        """
        if host.host.startswith("/"):
            # In the query: before the path, SQLAlchemy would not undo the percent-encoding.
            return self._url("", {"host": host.host, "port": str(host.port)})
        return self._url(_authority(host))

    @property
    def redacted(self) -> str:
        """The whole DSN as a URL with all hosts, and `***` for the password and other secrets."""
        shown = replace(
            self,
            password=None if self.password is None else "***",
            params=tuple((k, "***" if k in SECRET_PARAMETERS else v) for k, v in self.params),
        )
        named = [_authority(host) for host in self._named]
        if self.source is not None:
            shown = replace(shown, params=(*shown.params, *self.source.query))
            if self.source.kind == "srv":
                named = [name.rpartition(":")[0] for name in named]
        return shown._url(",".join(named))  # noqa: SLF001 - own class

    def hide(self, text: str) -> str:
        """Return a text, such as an error's, with `***` for the password and other secrets.

        See `hasql.cluster.redaction`.
        """
        secrets = (self.password, *(v for k, v in self.params if k in SECRET_PARAMETERS))
        names = [self.user or "", self.dbname or "", *(host.host for host in self._named)]
        return redact(text, filter(None, secrets), names)

    @property
    def _named(self) -> tuple[HostSpec, ...]:
        return self.hosts if self.source is None else self.source.names

    def __str__(self) -> str:
        """Return `redacted`."""
        return self.redacted

    def __repr__(self) -> str:
        """Return the class and `redacted`."""
        return f"<{type(self).__name__} {self.redacted}>"

    def _url(self, authority: str, address: Mapping[str, str] = MappingProxyType({})) -> str:
        userinfo = _encode(self.user or "")
        if self.password is not None:
            userinfo += f":{_encode(self.password)}"
        if userinfo:
            authority = f"{userinfo}@{authority}"
        path = "" if self.dbname is None else f"/{_encode(self.dbname)}"
        query = "&".join(f"{k}={_encode(v)}" for k, v in (*address.items(), *self.params))
        return f"postgresql://{authority}{path}{'?' if query else ''}{query}"


def _encode(text: str) -> str:
    return quote(text, safe="*")


def _authority(host: HostSpec) -> str:
    safe = "" if host.host.startswith("/") else "[:]"
    return f"{quote(bracketed(host.host), safe=safe)}:{host.port}"


def _read_url(url: re.Match[str], *, plus_is_space: bool) -> dict[str, str]:
    userinfo, dbname, query = (url[part] or "" for part in ("userinfo", "dbname", "query"))
    items = [item.partition("=") for item in query.split("&")] if query else []
    if "@" in dbname or any("@" in k + v and k not in _MAY_HOLD_AT for k, _, v in items):
        raise ConfigurationError(
            "the DSN has an '@' after the host list; write '@' as %40, and in a user or password "
            "also '/' as %2F and '?' as %3F"
        )
    user, _, password = userinfo.partition(":")
    if "," in user or ("," in password and "@" in userinfo):
        raise ConfigurationError(
            "the DSN seems to have a user before more than one host; give it once, before the "
            "first host, and write ',' in it as %2C and '@' as %40"
        )
    options = {
        "user": decode(user, "the user in the DSN"),
        "password": decode(password, "the password in the DSN"),
        "dbname": decode(dbname, "the database name in the DSN"),
    }
    for number, (keyword, equals, value) in enumerate(items, 1):
        where = f"query parameter {number} of {len(items)} in the DSN"
        if not equals or not _KEYWORD.fullmatch(keyword):
            raise ConfigurationError(
                f"{where} is not of the form name=value; write '&' in a value as %26"
            )
        decoded = decode(value.replace("+", " ") if plus_is_space else value, where)
        if keyword in {"host", "port", "plugin"} and keyword in options:
            # SQLAlchemy names several hosts as ?host=db1:5432&host=db2:5432.
            decoded = f"{options[keyword]},{decoded}"
        options[keyword] = decoded
    return options


def _read_keywords(text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    position = 0
    for number in count(1):
        if position == len(text):
            break
        pair = _KEYWORD_VALUE.match(text, position)
        if not pair or not _KEYWORD.fullmatch(pair["keyword"]):
            raise ConfigurationError(
                f"parameter {number} in the DSN is not of the form keyword=value; put a value with "
                r"spaces in single quotes, ' in it as \' and \ as \\; begin a URL with postgresql://"
            )
        value = pair["plain"] if pair["quoted"] is None else pair["quoted"]
        options[pair["keyword"]] = _ESCAPE.sub(r"\1", value)
        position = pair.end()
    return options


def _drop_routing(options: dict[str, str]) -> None:
    for keyword, neutral in _ROUTING.items():
        if options.pop(keyword, "") not in {"", neutral}:
            raise ConfigurationError(
                f"remove {keyword} from the DSN: hasql chooses among the hosts itself, and a "
                "driver that chooses too refuses hosts that hasql needs"
            )


def _read_hosts(
    authority: str, options: dict[str, str], *, needed: bool
) -> tuple[tuple[HostSpec, ...], Sequence[int | None]]:
    """Return the hosts, and the ports that were written."""
    names, ports = _split_hosts(authority, in_url=True)
    host, hostaddr, port = (options.pop(k, "") for k in ("host", "hostaddr", "port"))
    if hostaddr and (host or any(names)):
        raise ConfigurationError(
            "the DSN gives hosts by name and again as hostaddr; keep one of the two"
        )
    if host or hostaddr:
        names, own_ports = _split_hosts(host or hostaddr, in_url=False)
        ports = own_ports or ports
    if port:
        if ports:
            raise ConfigurationError(
                "the DSN gives ports beside the hosts and again as port; keep one of the two"
            )
        listed = port.split(",")
        ports = [
            read_port(p, f"port {i} of {len(listed)} in the DSN") for i, p in enumerate(listed, 1)
        ]
    if not any(names):
        if not needed and not ports and len(names) == 1:
            return (), ()
        raise ConfigurationError(
            "the DSN names no host; name at least one, as in postgresql://db1,db2/dbname"
        )
    if "" in names:
        where = f"host {names.index('') + 1} of {len(names)} in the DSN"
        raise ConfigurationError(f"{where} is empty; name it or drop its comma")
    written = ports
    if len(ports) <= 1:
        ports = (ports or [None]) * len(names)
    if len(ports) != len(names):
        raise ConfigurationError(
            f"the DSN has {len(ports)} ports for {len(names)} hosts; give one for all or for each"
        )
    pairs = zip(names, ports, strict=True)
    hosts = dict.fromkeys(HostSpec(name, port or DEFAULT_PORT) for name, port in pairs)
    return tuple(hosts), written


def _split_hosts(text: str, *, in_url: bool) -> tuple[list[str], list[int | None]]:
    """Return the names, and no port, one for all or one for each; an empty name stays ''."""
    segments = text.split(",")
    hosts = [
        split_host(segment, f"host {number} of {len(segments)} in the DSN", in_url=in_url)
        for number, segment in enumerate(segments, 1)
    ]
    ports = [port for _, port in hosts]
    if not any(ports[:-1]):
        ports = ports[-1:] if ports[-1] else []
    return [name for name, _ in hosts], ports
