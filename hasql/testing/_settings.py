"""The settings for postgresql.conf that a caller passes."""

import re
from collections.abc import Mapping

from hasql.errors import ConfigurationError
from hasql.testing._data_directory import quoted
from hasql.testing.errors import ClusterError

__all__ = ("check_settings",)

_OURS = frozenset(
    {
        "cluster_name",
        "config_file",
        "data_directory",
        "external_pid_file",
        "hba_file",
        "listen_addresses",
        "logging_collector",
        "port",
        "primary_conninfo",
        "unix_socket_directories",
    },
)


def check_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the settings after checking that they can be written safely.

    PostgreSQL itself checks whether it knows them.

    :raises ConfigurationError: for a name or value that cannot be written to the file, or for a
        setting that the cluster makes itself
    """
    checked: dict[str, str] = {}
    for name, value in settings.items():
        if not re.fullmatch(r"[A-Za-z_][\w.]*", str(name), re.ASCII):
            raise ConfigurationError(f"{name!r} is not the name of a setting")
        if name.lower() in _OURS:
            raise ConfigurationError(f"{name} is set by the cluster itself; leave it out")
        given: object = value
        if not isinstance(given, str):
            raise ConfigurationError(f"{name}={value!r}: give the value as text, like '8MB'")
        try:
            quoted(value)
        except ClusterError as error:
            raise ConfigurationError(f"{name}: {error}") from None
        checked[name.lower()] = value
    return checked
