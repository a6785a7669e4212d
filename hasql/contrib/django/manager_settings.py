"""The settings of an alias: those that choose its pool manager, and those of each acquire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured

from hasql.cluster.checks import check_flag, check_seconds, check_share
from hasql.errors import ConfigurationError

__all__ = ("AcquireSettings", "ManagerSettings", "as_django_error", "as_master", "role_of")

#: Arguments of psycopg.connect() that are set again for each lease: aliases may differ in them.
_OF_A_LEASE: Final = frozenset(
    {"autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory"}
)
#: Entries of OPTIONS["hasql"] that apply to each acquire, not to the pool manager.
_OF_AN_ACQUIRE: Final = frozenset(
    {"role", "acquire_timeout", "fallback_master", "master_as_replica_weight"}
)

#: The default of a pool manager, in seconds.
_ACQUIRE_TIMEOUT: Final = 1.0


def _hasql_options(settings_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    options = settings_dict["OPTIONS"].get("hasql") or {}
    if not isinstance(options, Mapping):
        raise ImproperlyConfigured(
            'OPTIONS["hasql"] must be a dictionary of hasql\'s options, as in '
            '{"acquire_timeout": 15}'
        )
    return options


def role_of(settings_dict: Mapping[str, Any]) -> str:
    """Return the role of an alias: master or replica.

    Raises:
        ImproperlyConfigured: The settings name another role.
    """
    role = _hasql_options(settings_dict).get("role", "master")
    if role not in {"master", "replica"}:
        raise ImproperlyConfigured(
            f'OPTIONS["hasql"]["role"] must be "master" or "replica", not {role!r}'
        )
    return str(role)


def as_master(settings_dict: dict[str, Any]) -> None:
    """Set the role of an alias to master, without changing a dictionary that aliases may share."""
    options = {**_hasql_options(settings_dict), "role": "master"}
    settings_dict["OPTIONS"] = {**settings_dict["OPTIONS"], "hasql": options}


@dataclass(frozen=True, slots=True)
class AcquireSettings:
    """What an alias asks for in each acquire; None means the pool manager's default."""

    read_only: bool
    fallback_master: bool | None
    master_as_replica_weight: float | None
    timeout: float

    @classmethod
    def of(
        cls, settings_dict: Mapping[str, Any], alias: str, *, falls_back: bool
    ) -> AcquireSettings:
        """Read the settings of an alias.

        `falls_back` applies if the settings do not say whether a read may go to a master while no
        replica can serve.

        Raises:
            ImproperlyConfigured: A setting is wrong.
        """
        options = _hasql_options(settings_dict)
        fallback = options.get("fallback_master")
        if fallback is None and falls_back:
            fallback = True
        weight = options.get("master_as_replica_weight")
        with as_django_error(alias):
            if fallback is not None:
                check_flag("fallback_master", fallback)
            return cls(
                read_only=role_of(settings_dict) == "replica",
                fallback_master=fallback,
                master_as_replica_weight=(
                    None if weight is None else check_share("master_as_replica_weight", weight)
                ),
                timeout=check_seconds(
                    "acquire_timeout", options.get("acquire_timeout", _ACQUIRE_TIMEOUT)
                ),
            )


@contextmanager
def as_django_error(alias: str) -> Iterator[None]:
    """Turn hasql's errors about its arguments into Django's error about settings."""
    try:
        yield
    except (ConfigurationError, TypeError) as error:
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}] is not a valid configuration for hasql: {error}"
        ) from error


@dataclass(frozen=True, repr=False)
class ManagerSettings:
    """The settings of a pool manager; aliases for which all of them are equal share a manager."""

    #: Hosts, login, and other parameters of libpq.
    parameters: Mapping[str, Any]
    #: The options of the pool manager.
    options: Mapping[str, Any]

    @classmethod
    def of(cls, settings_dict: Mapping[str, Any], parameters: Mapping[str, Any]) -> ManagerSettings:
        """Read the settings of an alias; `parameters` are what Django passes on to psycopg."""
        return cls(
            {name: value for name, value in parameters.items() if name not in _OF_A_LEASE},
            {
                name: value
                for name, value in _hasql_options(settings_dict).items()
                if name not in _OF_AN_ACQUIRE
            },
        )

    def leads_to(self, hosts: str, ports: object, dbname: str) -> bool:
        """Tell whether these settings lead to a database on some hosts, whatever the login."""
        mine = [self.parameters.get(name, "") for name in ("host", "port", "dbname")]
        return mine == [hosts, ports, dbname]
