"""Disconnects this process from a database that is about to be copied or dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import connections

from hasql.contrib.django.leasing_wrapper import LeasingWrapper
from hasql.contrib.django.shared_managers import close_managers

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("close_database",)


def close_database(settings_dict: Mapping[str, Any], dbname: str) -> None:
    """Close the pool managers of a database on an alias's cluster.

    The connections of this thread to a database of that name are given back first.
    """
    for wrapper in connections.all(initialized_only=True):
        if isinstance(wrapper, LeasingWrapper) and wrapper.settings_dict["NAME"] == dbname:
            wrapper.close()
    hosts, ports = settings_dict["HOST"], settings_dict["PORT"]
    close_managers(lambda settings: settings.leads_to(hosts, ports, dbname))
