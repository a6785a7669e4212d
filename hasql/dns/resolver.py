"""A resolver: looks names up and remembers the answers, for any thread and any event loop."""

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
"""How many names a resolver remembers; names followed or being looked up are never dropped."""
MOST_SHARED: Final = 64
"""How many resolvers with different settings are kept for functions that take the settings."""


class Resolver:
    """Looks names up by DNS, once for all callers, and keeps each answer for its TTL.

    Addresses, and names in the hosts file, need no nameserver. `search` and `ndots` are those of
    resolv.conf. All methods may be called from any thread and any event loop. At most one look-up
    of a name runs at a time, and all callers share its answer.

    Args:
        timeout: How many seconds one attempt, which asks one nameserver, may take. Default: 12.
        nameservers: The nameservers to ask, in turn: ``10.0.0.2``, ``10.0.0.2:5353``, ``[::1]`` or
            ``[::1]:5353``. Default, None: those of resolv.conf.
        grace_ttl: For how many seconds after its TTL an old answer serves while no nameserver gives
            a valid one. Default: 30.
        fallback: Whether to ask the system's resolver when DNS fails and no old answer may serve.
            Default: True.
        max_retries: How many attempts one look-up has in all. Default: 3.
        extend_grace: Whether the grace time doubles with each failure in a row, to at most 300
            seconds. Default: True.

    Raises:
        ConfigurationError: A value is impossible.
        TypeError: A value has the wrong type.
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
        """Return the addresses of a name, which is looked up if its last answer is old.

        Raises NameResolutionError if it cannot be resolved; the error says what each nameserver
        said.
        """
        return self._answer(host)

    async def lookup_async(self, host: str) -> Answer:
        """Do as `lookup` without blocking the event loop.

        If the call is cancelled, the look-up goes on for the others that wait for it.
        """
        if (local := self._sources.local_answer(check_name(host))) is not None:
            return local
        known = addresses_of(host, await _outcome(self._shared(host, ADDRESSES)))
        return Answer(known.addresses, known.ttl)

    async def lookup_srv_async(self, name: str) -> SrvAnswer:
        """Return the targets of a service such as ``_postgresql._tcp.example.com``.

        Raises NameResolutionError if the name cannot be resolved, if the answer says that the
        service is not offered, or if it has an unusable target.
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
        """Return a name that is looked up in the background each time its TTL ends, until closed.

        It is looked up at most once a second. This call does not wait for an answer.
        """
        if is_address(check_name(host)):
            return FixedName(host)
        return FollowedName(self._shared(host, ADDRESSES), self)

    def expire(self, host: str) -> None:
        """Make the last answer for a name count as old, so that the name is looked up again.

        An answer stays valid until it is one second old, so this causes at most one look-up a
        second.
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

    # Overridden in tests.

    @staticmethod
    def _clock() -> Callable[[], float]:
        return monotonic

    @staticmethod
    def _files() -> tuple[str, str]:
        return "/etc/hosts", "/etc/resolv.conf"

    def _answer(self, host: str, *, anew: bool = False) -> Answer:
        if (local := self._sources.local_answer(check_name(host))) is not None:
            return local
        name = self._shared(host, ADDRESSES)
        pending = name.begin(anew=anew)
        known = addresses_of(host, name.outcome() if pending is None else pending.result())
        return Answer(known.addresses, known.ttl)

    def _shared(self, host: str, kinds: tuple[str, ...]) -> SharedName:
        key = host.lower(), kinds
        with self._lock:
            # Taken out and put back at the end, so that the least recently used name is first.
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
    """Return one address of a name, and for how many whole seconds it may be kept.

    A name whose TTL is 0 is looked up each time. While no nameserver gives a valid answer, an old
    answer is returned during its grace time, with 0 seconds. For the arguments see `Resolver`; the
    system's resolver is never asked.

    Raises:
        NameResolutionError: The name cannot be resolved; the message says what each nameserver
            said.
        ConfigurationError: A value is impossible.
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
    # Rounded, not cut off, so that a fresh answer with a TTL of 1 gives 1 and not 0.
    return answer.addresses[0], round(answer.ttl)


def clear_dns_cache() -> None:
    """Forget all answers, failures and counts of all resolvers in this process."""
    for resolver in list(_resolvers):
        resolver._forget()  # noqa: SLF001  # its own module


def shared_resolver(settings: ResolverSettings) -> Resolver:
    """Return the process's resolver with these settings; equal settings share one resolver."""
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
