"""A resolver: what it knows of names, for whoever asks, from whatever thread or event loop."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final
from weakref import WeakSet

from hasql.cluster.host import is_address
from hasql.dns.answers import Answer, SrvAnswer
from hasql.dns.followed_name import FixedName, FollowedName, addresses_of, resolution_error
from hasql.dns.known_name import Known, Unknown
from hasql.dns.settings import ResolverSettings
from hasql.dns.shared_name import SharedName
from hasql.dns.sources import ADDRESSES, SERVICE, NameSearch, Sources, check_name

__all__ = ("Resolver", "clear_dns_cache", "get_ip_with_ttl", "shared_resolver")

MOST_NAMES: Final = 1000
"""So many names are remembered by a resolver, and all that are followed or being looked up."""
MOST_SHARED: Final = 64
"""So many resolvers of different settings are kept for functions that are given the settings."""


class Resolver:
    """Looks names up by DNS, once for all who ask, and keeps each answer for its TTL.

    Addresses and what stands in the hosts file need no nameserver. `search` and `ndots` are those
    of resolv.conf. All methods may be called from any thread and any event loop, and one look-up of
    a name at a time is enough for all of them.

    Args:
        timeout: Seconds that one attempt takes at most, which asks one nameserver. Default: 12.
        nameservers: Those to ask, in turn: ``10.0.0.2``, ``10.0.0.2:5353``, ``[::1]`` or
            ``[::1]:5353``. Default, None: those of resolv.conf.
        grace_ttl: Seconds after the end of its TTL for which an old answer serves while no
            nameserver gives a good one. Default: 30.
        fallback: Ask the system's resolver when DNS fails and no old answer may serve.
        max_retries: The attempts of one look-up in all. Default: 3.
        extend_grace: Double the seconds of grace with each failure in a row, to 300 at most.

    Raises:
        ConfigurationError: An impossible value.
        MissingExtraError: dnspython is not installed: ``pip install 'hasql[dns]'``.

    .. versionadded:: 0.1
    """

    def __init__(  # noqa: PLR0913  # the settings
        self,
        *,
        timeout: float = 12.0,
        nameservers: Iterable[str] | None = None,
        grace_ttl: float = 30.0,
        fallback: bool = True,
        max_retries: int = 3,
        extend_grace: bool = True,
    ) -> None:
        self._settings = ResolverSettings.checked(
            timeout=timeout,
            nameservers=nameservers,
            grace_ttl=grace_ttl,
            fallback=fallback,
            max_retries=max_retries,
            extend_grace=extend_grace,
        )
        self._names: dict[tuple[str, tuple[str, ...]], SharedName] = {}
        self._lock = threading.RLock()
        self._time = self._clock()
        self._sources = Sources(self._settings, *self._files())
        _resolvers.add(self)

    def lookup(self, host: str) -> Answer:
        """Return the addresses of a name, looked up if its last answer is old.

        Raises NameResolutionError, with what each nameserver said.
        """
        return self._answer(host)

    async def lookup_async(self, host: str) -> Answer:
        """Return the same; while it waits the event loop goes on.

        Cancelling it leaves the look-up to the others who wait for it.
        """
        if (here := self._sources.here(check_name(host))) is not None:
            return here
        known = addresses_of(host, await _outcome(self._shared(host, ADDRESSES)))
        return Answer(known.addresses, known.ttl)

    async def lookup_srv_async(self, name: str) -> SrvAnswer:
        """Return the targets of a service such as ``_postgresql._tcp.example.com``.

        Raises NameResolutionError, also where the answer says that the service is not offered or
        has a target that nobody can use.
        """
        known = addresses_of(name, await _outcome(self._shared(check_name(name), SERVICE)))
        if [target.host for target in known.targets] == ["."]:
            raise resolution_error(name, ("its SRV record says that the service is not offered",))
        for target in known.targets:
            if target.host == "." or not target.port:
                broken = f"its SRV record has a target without a host or port: {target}"
                raise resolution_error(name, (broken,))
        return SrvAnswer(known.targets, known.ttl)

    def follow(self, host: str) -> FollowedName:
        """Look a name up in the background from now on, whenever its TTL ends, until it is closed.

        At most once a second. Nothing is waited for.
        """
        if is_address(check_name(host)):
            return FixedName(host)
        return FollowedName(self._shared(host, ADDRESSES), self)

    def expire(self, host: str) -> None:
        """Let what is known of a name be old, so that it is asked for again, once a second at most.

        An answer that is less than a second old stays.
        """
        for kinds in (ADDRESSES, SERVICE):
            with self._lock:
                name = self._names.get((check_name(host).lower(), kinds))
            if name is not None:
                name.expire()

    def __repr__(self) -> str:
        servers = self._settings.nameservers
        asked = "those of resolv.conf" if servers is None else ", ".join(map(str, servers))
        return f"<Resolver nameservers: {asked}; {len(self._names)} names known>"

    # What a test has of its own.

    @staticmethod
    def _clock() -> Callable[[], float]:
        return monotonic

    @staticmethod
    def _files() -> tuple[str, str]:
        return "/etc/hosts", "/etc/resolv.conf"

    def _answer(self, host: str, *, anew: bool = False) -> Answer:
        if (here := self._sources.here(check_name(host))) is not None:
            return here
        name = self._shared(host, ADDRESSES)
        pending = name.begin(anew=anew)
        known = addresses_of(host, name.outcome() if pending is None else pending.result())
        return Answer(known.addresses, known.ttl)

    def _shared(self, host: str, kinds: tuple[str, ...]) -> SharedName:
        key = host.lower(), kinds
        with self._lock:
            # The one that was asked for longest ago is first.
            name = self._names.pop(key, None)
            if name is None:
                if len(self._names) >= MOST_NAMES:
                    idle = (other for other, it in self._names.items() if it.is_idle)
                    if (oldest := next(idle, None)) is not None:
                        del self._names[oldest]
                name = SharedName(NameSearch(self._sources, host, kinds), self._time)
            self._names[key] = name
            return name

    def _all_names(self) -> list[SharedName]:
        with self._lock:
            return list(self._names.values())

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        for name in self._all_names():
            name.after_fork()

    def _forget(self) -> None:
        for name in self._all_names():
            name.forget()


async def _outcome(name: SharedName) -> Known | Unknown:
    pending = name.begin()
    return name.outcome() if pending is None else await asyncio.wrap_future(pending)


def get_ip_with_ttl(  # noqa: PLR0913  # the settings
    host: str,
    dns_timeout: float = 12,
    dns_nameservers: Iterable[str] | None = None,
    dns_grace_ttl: float = 30,
    dns_max_retries: int = 3,
    dns_extend_grace: bool = True,  # noqa: FBT001, FBT002  # as it was always called
) -> tuple[str, int]:
    """Return one address of a name, and the whole seconds for which it may be kept.

    A name whose TTL is 0 is asked for each time. While no nameserver answers well, an old answer
    serves for its time of grace, to be kept for 0 seconds. For the arguments see `Resolver`; the
    system's resolver is never asked.

    Raises:
        NameResolutionError: It cannot be resolved; the message says what each nameserver said.
        ConfigurationError: An impossible value.
        MissingExtraError: dnspython is not installed: ``pip install 'hasql[dns]'``.
    """
    settings = ResolverSettings.checked(
        timeout=dns_timeout,
        nameservers=dns_nameservers,
        grace_ttl=dns_grace_ttl,
        fallback=False,
        max_retries=dns_max_retries,
        extend_grace=dns_extend_grace,
        prefix="dns_",
    )
    answer = shared_resolver(settings)._answer(host, anew=True)  # noqa: SLF001  # its own module
    # What was asked for a moment ago with a TTL of 1 has that, and not 0.
    return answer.addresses[0], round(answer.ttl)


def clear_dns_cache() -> None:
    """Forget all answers, failures and counts of every resolver in this process."""
    for resolver in list(_resolvers):
        resolver._forget()  # noqa: SLF001  # its own module


def shared_resolver(settings: ResolverSettings) -> Resolver:
    """Return the process's resolver with these settings, so that equal ones share their answers."""
    with _shared_lock:
        resolver = _shared.pop(settings, None)
        if resolver is None:
            if len(_shared) >= MOST_SHARED:
                del _shared[next(iter(_shared))]
            servers = settings.nameservers
            resolver = Resolver(
                timeout=settings.timeout,
                nameservers=None if servers is None else map(str, servers),
                grace_ttl=settings.grace_ttl,
                fallback=settings.fallback,
                max_retries=settings.max_retries,
                extend_grace=settings.extend_grace,
            )
        _shared[settings] = resolver
        return resolver


_resolvers = WeakSet[Resolver]()
_shared: dict[ResolverSettings, Resolver] = {}
_shared_lock = threading.Lock()


def _after_fork() -> None:
    global _shared_lock  # noqa: PLW0603  # another thread of the parent may have held it
    _shared_lock = threading.Lock()
    for resolver in list(_resolvers):
        resolver._after_fork()  # noqa: SLF001  # its own module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
