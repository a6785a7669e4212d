"""The options of one pool manager, checked."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType
from typing import Any

from hasql._leasing.options import LeasingOptions
from hasql._probing.followed_names import NameSource
from hasql._probing.options import ProbingOptions
from hasql.balancer_policy import BaseBalancerPolicy
from hasql.cluster.checks import check_count, check_flag, check_seconds, check_share
from hasql.cluster.dsn import Dsn
from hasql.cluster.host import HostSpec, parse_host
from hasql.cluster.state import Rules
from hasql.driver import Endpoint
from hasql.driver.credentials import CredentialSource
from hasql.driver.session_settings import NO_SETTINGS, SessionSettings
from hasql.errors import ConfigurationError
from hasql.resilience.options import ResilienceOptions
from hasql.resilience.session_defaults import SessionDefaults

__all__ = (
    "Options",
    "apply_session",
    "frozen_kwargs",
    "never_master_hosts",
    "policy_of",
)


@dataclass(frozen=True, slots=True)
class Options:
    """The options that the user gave to a pool manager. Durations are seconds."""

    dsn: Dsn
    acquire_timeout: float
    refresh_delay: float
    refresh_timeout: float
    fallback_master: bool
    master_as_replica_weight: float
    balancer_policy: BaseBalancerPolicy
    stopwatch_window_size: int
    pool_factory_kwargs: Mapping[str, Any]
    release_timeout: float
    rules: Rules
    #: Makes the source of the addresses of names. None: names are left to the driver.
    name_source: Callable[[], NameSource] | None
    resilience: ResilienceOptions
    #: The session settings of each connection of a pool.
    settings: SessionSettings
    #: Asked for the login of each new connection. None: the DSN has it.
    credentials: CredentialSource | None
    #: The only clock in a manager: seconds that never go back.
    clock: Callable[[], float]
    #: The only source of chance in a manager.
    chance: Random

    def for_probing(self) -> ProbingOptions:
        """Return the options of the probing wing."""
        return ProbingOptions(
            refresh_delay=self.refresh_delay,
            refresh_timeout=self.refresh_timeout,
            stopwatch_window_size=self.stopwatch_window_size,
            pool_factory_kwargs=self.pool_factory_kwargs,
            hide=self.hide,
            clock=self.clock,
            chance=self.chance,
        )

    def for_leasing(self) -> LeasingOptions:
        """Return the options of the leasing wing."""
        return LeasingOptions(
            acquire_timeout=self.acquire_timeout,
            release_timeout=self.release_timeout,
            hide=self.hide,
            clock=self.clock,
        )

    def endpoint(self, host: HostSpec) -> Endpoint:
        """Return how to connect to a host."""
        return Endpoint(host, self.dsn.for_host(host), self.settings, self.credentials)

    def hide(self, text: str) -> str:
        """Return a text, such as an error's, with `***` in place of each secret."""
        text = self.dsn.hide(text)
        return text if self.credentials is None else self.credentials.hide(text)

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises ConfigurationError for impossible values and TypeError for wrong types.
        """
        for name in ("acquire_timeout", "refresh_delay", "refresh_timeout", "release_timeout"):
            check_seconds(name, getattr(self, name), positive=True)
        if self.rules.lease_abort_after is not None:
            check_seconds("lease_abort_after", self.rules.lease_abort_after)
        check_share("master_as_replica_weight", self.master_as_replica_weight)
        check_count("stopwatch_window_size", self.stopwatch_window_size, minimum=1)
        check_flag("fallback_master", self.fallback_master)
        check_flag("fencing", self.rules.fencing)
        check_flag("allow_several_clusters", self.rules.allow_several_clusters)


def policy_of(given: type[BaseBalancerPolicy] | BaseBalancerPolicy) -> BaseBalancerPolicy:
    """Make the balancer policy, or return the given instance. Raises ConfigurationError."""
    if isinstance(given, BaseBalancerPolicy):
        return given
    if not (isinstance(given, type) and issubclass(given, BaseBalancerPolicy)):
        msg = (
            "balancer_policy must be a subclass of BaseBalancerPolicy or an instance of one, "
            f"not {given!r}"
        )
        raise ConfigurationError(msg)
    return given()


def apply_session(
    dsn: Dsn, session: SessionDefaults | None, kwargs: Mapping[str, Any]
) -> tuple[Dsn, SessionSettings]:
    """Return the DSN with the application's name in it, and the settings of a pool's connections.

    Raises ConfigurationError if the DSN or the pool's arguments set the same thing to another
    value, and TypeError if `session` is of a wrong type.
    """
    if session is None:
        return dsn, NO_SETTINGS
    if not isinstance(session, SessionDefaults):
        raise TypeError(f"session must be a hasql.resilience.SessionDefaults, not {session!r}")
    settings = SessionSettings(session.parameters())
    params = dict(dsn.params)
    settings.check(params, "the DSN")
    for where, given in _of_connections("pool_factory_kwargs", kwargs):
        settings.check(given, where)
    if session.application_name is not None:
        params["application_name"] = session.application_name  # reserved connections have it, too
    return replace(dsn, params=tuple(params.items())), settings


def _of_connections(
    where: str, given: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the arguments in which the driver's libraries look for settings."""
    yield where, given
    for name in ("connect_args", "kwargs", "server_settings"):
        if isinstance(given.get(name), Mapping):
            yield from _of_connections(f"{where}[{name!r}]", given[name])


def frozen_kwargs(kwargs: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Copy the pool's arguments, so that a later change by the caller changes nothing here."""
    if kwargs is not None and not isinstance(kwargs, Mapping):
        msg = f"pool_factory_kwargs must be a dict, not {type(kwargs).__name__}"
        raise TypeError(msg)
    return MappingProxyType(dict(kwargs or {}))


def never_master_hosts(
    names: Sequence[str], hosts: Collection[HostSpec] | None
) -> frozenset[tuple[str, int | None]]:
    """Read `never_master`: each name is one of `hosts`, with its port or for all its ports.

    Raises ConfigurationError for a name that is not among the hosts: a misspelt name would protect
    nothing. If `hosts` is None, any name is accepted, because any host may come.
    """
    if isinstance(names, str):
        msg = f"never_master must be a sequence of hosts: [{names!r}], not {names!r}"
        raise TypeError(msg)
    read = set()
    for name in names:
        given = parse_host(name, 0)
        named, port = given.host.rstrip("."), given.port or None
        if hosts is not None and not any(
            host.host.rstrip(".") == named and port in {None, host.port} for host in hosts
        ):
            msg = f"never_master names {name!r}, which is not a host of the DSN"
            raise ConfigurationError(msg)
        read.add((given.address or named, port))
    return frozenset(read)
