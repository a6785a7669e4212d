"""The settings of an application: its clusters, read from `app.config` and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from math import ceil
from typing import TYPE_CHECKING, Any

from hasql.cluster.checks import check_flag, check_seconds
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from flask import Flask

__all__ = ("DEFAULT", "AppSettings", "ClusterSettings", "read_settings")

#: The cluster that is used if none is named.
DEFAULT = "default"

_DRIVERS = ("psycopg3", "psycopg2", "sqlalchemy")
_TRANSACTIONS = ("autocommit", "request")


@dataclass(frozen=True)
class ClusterSettings:
    """One cluster: its hosts, and how its connections serve requests."""

    name: str
    #: Hidden in the repr, because it may hold a password.
    dsn: str = field(repr=False)
    driver: str
    #: Keyword arguments of the pool manager.
    options: Mapping[str, Any] = field(repr=False)
    transactions: str
    reset: bool

    @property
    def in_requests(self) -> bool:
        """Whether a request is one transaction."""
        return self.transactions == "request"


@dataclass(frozen=True)
class AppSettings:
    """All clusters of one application."""

    clusters: Mapping[str, ClusterSettings]
    #: Whole seconds for the header of a 503.
    retry_after: int


def read_settings(app: Flask) -> AppSettings:
    """Read the settings of an application. Raises ConfigurationError."""
    config = app.config
    retry_after = config.get("HASQL_RETRY_AFTER", 1)
    check_seconds("HASQL_RETRY_AFTER", retry_after)
    given = _mapping("HASQL_CLUSTERS", config.get("HASQL_CLUSTERS", {}))
    usual = {
        "dsn": config.get("HASQL_DSN"),
        "driver": config.get("HASQL_DRIVER", "psycopg3"),
        "options": config.get("HASQL_OPTIONS", {}),
        "transactions": config.get("HASQL_TRANSACTIONS", "autocommit"),
        "reset": config.get("HASQL_RESET", True),
    }
    if usual["dsn"] is not None and DEFAULT in given:
        raise ConfigurationError(
            "HASQL_DSN and HASQL_CLUSTERS['default'] both name the hosts of the cluster 'default': "
            "leave one of them out"
        )
    clusters = {}
    if usual["dsn"] is not None:
        clusters[DEFAULT] = _cluster(DEFAULT, usual, "HASQL_{}")
    for name, of_one in given.items():
        where = f"HASQL_CLUSTERS[{name!r}]"
        settings = {**_DEFAULTS, **_known(where, _mapping(where, of_one))}
        clusters[name] = _cluster(name, settings, where + "[{!r}]")
    if not clusters:
        raise ConfigurationError(
            "no cluster is configured: set HASQL_DSN to a DSN of all hosts, as in "
            "app.config['HASQL_DSN'] = 'postgresql://app@db1,db2,db3/app', before init_app(app)"
        )
    return AppSettings(clusters, ceil(retry_after))


_DEFAULTS: Mapping[str, Any] = {
    "dsn": None,
    "driver": "psycopg3",
    "options": {},
    "transactions": "autocommit",
    "reset": True,
}


def _cluster(name: str, given: Mapping[str, Any], place: str) -> ClusterSettings:
    """Check the settings of one cluster; `place` is a template for the full name of a setting."""

    def where(key: str) -> str:
        return place.format(key if "[" in place else key.upper())

    dsn, driver, transactions = given["dsn"], given["driver"], given["transactions"]
    if not isinstance(dsn, str) or not dsn:
        msg = f"{where('dsn')} must be a DSN that names all hosts, not {type(dsn).__name__}"
        raise ConfigurationError(msg)
    _check_driver(where("driver"), driver)
    if transactions not in _TRANSACTIONS:
        msg = f"{where('transactions')} must be 'autocommit' or 'request', not {transactions!r}"
        raise ConfigurationError(msg)
    check_flag(where("reset"), given["reset"])
    options = dict(_mapping(where("options"), given["options"]))
    if "dsn" in options:
        raise ConfigurationError(f"{where('options')} takes no 'dsn': {where('dsn')} is for that")
    return ClusterSettings(name, dsn, driver, options, transactions, given["reset"])


def _check_driver(where: str, driver: object) -> None:
    if driver in _DRIVERS:
        return
    known = ", ".join(map(repr, _DRIVERS))
    if not isinstance(driver, str):
        # Probably a pool manager or its class. It most likely serves tasks, not threads; one that
        # serves threads has a name.
        msg = f"{where} takes the name of a driver for threads, {known}, not {driver!r}"
        raise ConfigurationError(msg)
    msg = f"{where} must be one of {known}, which serve threads; {driver!r} is not one of them"
    close = get_close_matches(driver, _DRIVERS, 1)
    raise ConfigurationError(f"{msg}: did you mean {close[0]!r}?" if close else msg)


def _mapping(where: str, given: object) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        msg = f"{where} must be a dict whose keys are strings, not {type(given).__name__}"
        raise ConfigurationError(msg)
    return given


def _known(where: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    names = [each.name for each in fields(ClusterSettings) if each.name != "name"]
    for key in given:
        if key not in names:
            close = get_close_matches(key, names, 1)
            hint = f": did you mean {close[0]!r}?" if close else f"; it takes {', '.join(names)}"
            raise ConfigurationError(f"{where} takes no {key!r}{hint}")
    return given
