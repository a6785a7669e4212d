"""The members of a cluster that Patroni runs, read from its REST API."""

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Final

from hasql.cluster.checks import check_seconds
from hasql.cluster.discovered import Discovered
from hasql.cluster.host import HostSpec
from hasql.diagnostics import about
from hasql.discovery.contract import Discovery
from hasql.discovery.http import HttpClient, HttpEndpoint, basic_auth
from hasql.discovery.patroni_cluster import PatroniCluster
from hasql.discovery.polling import Polling
from hasql.errors import ConfigurationError

__all__ = ("PatroniDiscovery",)

log = logging.getLogger("hasql")

_BEFORE_SWITCHOVER: Final = 5.0
"""Seconds before a scheduled switchover at which Patroni is asked once more, so that members that
have joined since are known by then, and their pools open."""


class PatroniDiscovery(Discovery):
    """A source whose hosts are the members of a Patroni cluster, which come and go.

    ``GET /cluster`` is sent to one member after the other until one gives a usable answer; that
    member is asked first the next time. A member that leaves Patroni's list leaves the pool
    manager. A member that is listed but down stays, because the probes see when it is back. A
    member without an address has not started yet, and is left out.

    The tag ``nofailover``, or a ``failover_priority`` of 0, makes a member that does not lead
    `never_master`. The tag ``noloadbalance`` makes a member `never_replica`. Patroni's roles,
    states and lags are not used: the probes know them better.

    When all of `urls` have failed, the members that the last answer named are asked, each at its
    ``api_url``: without `auth`, and by plain HTTP only if one of `urls` uses it.

    Args:
        urls: Where to ask: ``http://db1:8008``, ``https://db2:8008``. Without a port, that of the
            scheme is used, 80 or 443. A user and password, as in
            ``https://user:password@db1:8008``, replace `auth` for that URL.
        interval: Seconds between two questions, plus or minus a quarter. Default: 10. While no
            master is known the interval is one second.
        timeout: How many seconds one member may take to answer. Default: 2.
        ca: A file of certificates to verify servers with, instead of the system's. Servers are
            always verified, and redirects refused.
        certificate: The client's own certificate, for a Patroni with ``verify_client``: a file that
            holds certificate and key, or a file for each.
        auth: User and password for Patroni's ``authentication``, by https only. `/cluster` does not
            need them, unless something in front of Patroni does.

    Raises:
        ConfigurationError: One of the arguments can never work.
        TypeError: `interval` or `timeout` is not a number, or a URL is not a str.
        MissingExtraError: httpcore2 is not installed.
    """

    def __init__(  # noqa: PLR0913  # the API
        self,
        urls: Sequence[str],
        *,
        interval: float = 10.0,
        timeout: float = 2.0,
        ca: str | None = None,
        certificate: str | tuple[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> None:
        self._seeds = _read_seeds(urls, auth)
        self._polling = Polling(interval)
        check_seconds("timeout", timeout, positive=True)
        self._client = HttpClient(timeout=timeout, ca=ca, certificate=certificate)
        self._has_files = ca is not None or certificate is not None
        if any(seed.tls for seed in self._seeds):
            self._client.read_certificates()
        elif self._has_files:
            raise ConfigurationError(
                "ca and certificate apply only to https, and no URL begins with https"
            )
        #: Where to ask the members that the last answer named.
        self._found: tuple[HttpEndpoint, ...] = ()
        self._last: HttpEndpoint | None = None
        #: The cluster's name, once it is known: answers about another cluster are refused.
        self._scope: str | None = None

    @classmethod
    def of_hosts(
        cls,
        hosts: Iterable[HostSpec],
        *,
        port: int = 8008,
        scheme: str = "http",
        ca: str | None = None,
        auth_file: str | None = None,
    ) -> "PatroniDiscovery":
        """Make a source that asks at the same port of each of these hosts, as a DSN does.

        Args:
            hosts: The hosts of PostgreSQL; their own ports do not matter.
            port: Patroni's port. Default: 8008.
            scheme: ``http`` or ``https``.
            ca: A file of certificates to verify servers with, instead of the system's.
            auth_file: A file that holds ``user:password``.

        Raises:
            ConfigurationError: One of the arguments can never work, or a host is a Unix socket.
        """
        if scheme not in {"http", "https"}:
            raise ConfigurationError(f"patroni_scheme must be http or https, not {scheme!r}")
        hosts = tuple(hosts)
        if any(host.host.startswith("/") for host in hosts):
            raise ConfigurationError("Patroni is asked at names or addresses, not at Unix sockets")
        auth = None if auth_file is None else _read_auth(auth_file)
        urls = [f"{scheme}://{HostSpec(host.host, port)}" for host in hosts]
        return cls(list(dict.fromkeys(urls)), ca=ca, auth=auth)

    async def watch(self) -> AsyncIterator[tuple[Discovered, ...]]:
        """Yield the members each time Patroni has been asked.

        Raises:
            ConnectionError: None of the servers has given a usable answer.
        """
        if self._has_files:
            self._client.read_certificates()  # new files may mend the cause of the last failure
        while True:
            cluster = await self._ask()
            yield cluster.hosts
            until = inf if cluster.switchover_in is None else cluster.switchover_in
            until -= _BEFORE_SWITCHOVER
            await self._polling.pause(until if until > 0 else inf)

    def refresh(self) -> None:
        """Ask again now, but not sooner than one second after the last question."""
        self._polling.hurry()

    def __str__(self) -> str:
        """Return the class and the URLs, without credentials."""
        return f"{type(self).__name__}({', '.join(map(str, self._seeds))})"

    __repr__ = __str__

    async def _ask(self) -> PatroniCluster:
        """Ask the servers one after the other, beginning with the one that answered last."""
        failures = []
        every = dict.fromkeys((*self._seeds, *self._found))
        for endpoint in sorted(every, key=lambda each: each != self._last):
            try:
                cluster = await self._ask_one(endpoint)
            except (OSError, ValueError) as error:
                failures.append(f"{endpoint}: {error}")
                continue
            for failure in failures:
                extra = about("patroni_failed")
                log.info("%s; %s has answered instead", failure, endpoint, extra=extra)
            self._last, self._scope = endpoint, cluster.scope or self._scope
            self._found = tuple(self._trusted(cluster.api_urls))
            return cluster
        raise ConnectionError(f"Patroni gave no answer: {'; '.join(failures)}")

    async def _ask_one(self, endpoint: HttpEndpoint) -> PatroniCluster:
        answer = await self._client.get(endpoint, "/cluster")
        cluster = PatroniCluster.read(answer.body, answer.date)
        if cluster.scope is not None and self._scope not in {None, cluster.scope}:
            raise ValueError(f"it belongs to cluster {cluster.scope!r}, not to {self._scope!r}")
        return cluster

    def _trusted(self, api_urls: Iterable[str]) -> Iterator[HttpEndpoint]:
        """Yield the members' own URLs, except those less safe than the URLs given."""
        by_tls_alone = all(seed.tls for seed in self._seeds)
        for url in api_urls:
            try:
                endpoint = HttpEndpoint.parse(url.removesuffix("/patroni"), "api_url")
            except ConfigurationError:
                continue
            if endpoint.tls or not by_tls_alone:
                # Without credentials: a server's answer is no reason to send them to another host.
                yield replace(endpoint, authorization=None)


def _read_seeds(urls: Sequence[str], auth: tuple[str, str] | None) -> tuple[HttpEndpoint, ...]:
    if isinstance(urls, str) or not urls:
        raise ConfigurationError('urls must be a sequence of URLs: ["http://db1:8008"]')
    seeds = [
        HttpEndpoint.parse(url, f"URL {number} of Patroni") for number, url in enumerate(urls, 1)
    ]
    if auth is not None:
        pair = not isinstance(auth, str) and len(auth) == 2  # noqa: PLR2004  # as said
        if not pair or not all(isinstance(part, str) for part in auth) or ":" in auth[0]:
            raise ConfigurationError(
                "auth must be (user, password), and the user must not contain a colon"
            )
        common = basic_auth(*auth)
        seeds = [replace(seed, authorization=seed.authorization or common) for seed in seeds]
    for number, seed in enumerate(seeds, 1):
        if seed.authorization is not None and not seed.tls:
            raise ConfigurationError(
                f"URL {number} of Patroni would send a password in plain text; use https"
            )
    return tuple(dict.fromkeys(seeds))


def _read_auth(file: str) -> tuple[str, str]:
    """Read `user:password` from a file. No error shows the file's contents."""
    try:
        user, colon, password = Path(file).read_text(encoding="utf-8").strip("\r\n").partition(":")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"patroni_auth_file={file!r} cannot be read: {what}") from None
    if not colon or "\n" in password:
        raise ConfigurationError(f"patroni_auth_file={file!r} must hold one line: user:password")
    return user, password
