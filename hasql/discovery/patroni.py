"""The members of a cluster that Patroni runs, asked of its REST API."""

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
"""Seconds before a scheduled switchover in which Patroni is asked once more: whoever joined since
is known by then, and its pool open."""


class PatroniDiscovery(Discovery):
    """The members of a Patroni cluster, which come and go.

    ``GET /cluster`` is asked of one member after the other until one gives an answer that can be
    used; the one that did is the first the next time. A member that leaves Patroni's list leaves
    the pool manager; one that is listed and down stays, as the probes see when it is back. A member
    without an address has not started yet, and is left out.

    The tag ``nofailover``, or a ``failover_priority`` of 0, makes a member that does not lead
    `never_master`, and ``noloadbalance`` makes one `never_replica`. Patroni's roles, states and
    lags are not used: the probes know them better.

    When all of `urls` have failed, the members that the last answer named are asked, each where its
    ``api_url`` leads: without `auth`, and by plain HTTP only where one of `urls` is.

    Args:
        urls: Where to ask: ``http://db1:8008``, ``https://db2:8008``. Without a port it is that of
            the scheme, 80 or 443. ``https://user:password@db1:8008`` is `auth` for this one.
        interval: Seconds between two questions, give or take a quarter. While no master is known
            it is one second.
        timeout: Seconds that one member may take to answer.
        ca: A file of certificates to verify servers with, instead of the system's. They are always
            verified, and redirects refused.
        certificate: Our own, for a Patroni with ``verify_client``: a file that holds certificate
            and key, or a file for each.
        auth: User and password for Patroni's ``authentication``, by https only. `/cluster` takes
            none unless something in front of Patroni does.

    Raises:
        ConfigurationError: One of the arguments can never work.
        TypeError: `interval` or `timeout` is no number.
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
            raise ConfigurationError("ca and certificate are for https, and no URL begins with it")
        #: Where the members are asked that the last answer named.
        self._found: tuple[HttpEndpoint, ...] = ()
        self._last: HttpEndpoint | None = None
        #: The name of the cluster, once it is known: another's members are not taken for ours.
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
        """Ask at the same port of each of these hosts, as a DSN has it.

        Args:
            hosts: PostgreSQL's; their own ports do not matter.
            port: Patroni's.
            scheme: ``http`` or ``https``.
            ca: As above.
            auth_file: A file that holds ``user:password``.

        Raises:
            ConfigurationError: as above, and where a host is a Unix socket.
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
        """Yield the members each time they have been asked for.

        Raises:
            ConnectionError: None of the servers has given an answer that can be used.
        """
        if self._has_files:
            self._client.read_certificates()  # the cause of the last failure may be mended in them
        while True:
            cluster = await self._ask()
            yield cluster.hosts
            until = inf if cluster.switchover_in is None else cluster.switchover_in
            until -= _BEFORE_SWITCHOVER
            await self._polling.pause(until if until > 0 else inf)

    def refresh(self) -> None:
        """Ask again now, or one second after the last question."""
        self._polling.hurry()

    def __str__(self) -> str:
        """The class, and where it asks."""
        return f"{type(self).__name__}({', '.join(map(str, self._seeds))})"

    __repr__ = __str__

    async def _ask(self) -> PatroniCluster:
        """Ask one after the other, first the one that answered last."""
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
        raise ConnectionError(f"Patroni has given no answer: {'; '.join(failures)}")

    async def _ask_one(self, endpoint: HttpEndpoint) -> PatroniCluster:
        answer = await self._client.get(endpoint, "/cluster")
        cluster = PatroniCluster.read(answer.body, answer.date)
        if cluster.scope is not None and self._scope not in {None, cluster.scope}:
            raise ValueError(f"it is of cluster {cluster.scope!r}, not of {self._scope!r}")
        return cluster

    def _trusted(self, api_urls: Iterable[str]) -> Iterator[HttpEndpoint]:
        """Yield where members say that they can be asked, no less safely than the seeds are."""
        by_tls_alone = all(seed.tls for seed in self._seeds)
        for url in api_urls:
            try:
                endpoint = HttpEndpoint.parse(url.removesuffix("/patroni"), "api_url")
            except ConfigurationError:
                continue
            if endpoint.tls or not by_tls_alone:
                # Not as whom: what a server says is no reason to show a password to another.
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
            raise ConfigurationError("auth must be (user, password), and a user holds no colon")
        common = basic_auth(*auth)
        seeds = [replace(seed, authorization=seed.authorization or common) for seed in seeds]
    for number, seed in enumerate(seeds, 1):
        if seed.authorization is not None and not seed.tls:
            raise ConfigurationError(
                f"URL {number} of Patroni would send a password in plain text; use https"
            )
    return tuple(dict.fromkeys(seeds))


def _read_auth(file: str) -> tuple[str, str]:
    """Read `user:password`; what is in the file stands in no error."""
    try:
        user, colon, password = Path(file).read_text(encoding="utf-8").strip("\r\n").partition(":")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"patroni_auth_file={file!r} cannot be read: {what}") from None
    if not colon or "\n" in password:
        raise ConfigurationError(f"patroni_auth_file={file!r} must hold one line: user:password")
    return user, password
