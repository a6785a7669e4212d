"""The router that sends reads to replicas."""

from __future__ import annotations

from collections.abc import Mapping
from random import choice
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections, router

from hasql.contrib.django.request_writes import has_to_read

if TYPE_CHECKING:
    from django.db.models import Model

__all__ = ("ReplicaRouter", "is_read_by_router")


class ReplicaRouter:
    """Sends reads to replicas, and all else to their master.

    ``HASQL_REPLICAS`` names the aliases of each master's replicas; by default it is
    ``{"default": ["replica"]}``. Of several replicas' aliases one is taken at random.

    Reads go to the master within ``atomic()`` of it, after a write in the same request, and while
    no replica of it is there: an alias of its replicas then leads to the master itself, unless its
    options have ``fallback_master`` say otherwise. Where other routers say which database a model
    is written to, its reads go to a replica of that one.

    Raises:
        ImproperlyConfigured: ``HASQL_REPLICAS`` is malformed, or names what is not in
            ``DATABASES``.
    """

    def __init__(self) -> None:
        self._replicas = _pairs(getattr(settings, "HASQL_REPLICAS", None))
        self._masters = {master: master for master in self._replicas}
        for master, replicas in self._replicas.items():
            self._masters.update(dict.fromkeys(replicas, master))

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        """Choose where a model is read from."""
        master = self.db_for_write(model, **hints)
        if master is None or _has_to_read(master):
            return master
        present = [alias for alias in self._replicas[master] if _has_replica(alias)]
        if not present:
            return master
        return present[0] if len(present) == 1 else choice(present)  # noqa: S311  # no secret

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        """Choose where a model is written; None: where other routers, or Django, say."""
        instance = hints.get("instance")
        alias = None if instance is None else instance._state.db  # noqa: SLF001  # documented
        if alias is None:
            alias = self._elsewhere(model, hints) or DEFAULT_DB_ALIAS
        return self._masters.get(alias)

    def allow_relation(self, obj1: Model, obj2: Model, **_: Any) -> bool | None:
        """Allow relations between what was read from a master and from its replicas."""
        first = self._masters.get(obj1._state.db or "")  # noqa: SLF001  # documented
        second = self._masters.get(obj2._state.db or "")  # noqa: SLF001  # documented
        return True if first is not None and first == second else None

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool | None:  # noqa: ARG002  # Django's
        """Migrate no replica: it is its master's to change."""
        return False if self._masters.get(db, db) != db else None

    def has_replica_alias(self, alias: str) -> bool:
        """Tell whether reads of a master go to this alias."""
        return self._masters.get(alias, alias) != alias

    def _elsewhere(self, model: type[Model], hints: dict[str, Any]) -> str | None:
        """Ask the other routers where a model is written."""
        for other in router.routers:
            if not isinstance(other, ReplicaRouter) and hasattr(other, "db_for_write"):
                alias: str | None = other.db_for_write(model, **hints)
                if alias:
                    return alias
        return None


def is_read_by_router(alias: str) -> bool:
    """Tell whether a router of this project sends reads of a master to an alias."""
    return any(
        isinstance(each, ReplicaRouter) and each.has_replica_alias(alias) for each in router.routers
    )


def _pairs(given: object) -> dict[str, list[str]]:
    if given is None:
        given = {DEFAULT_DB_ALIAS: ["replica"]}
    if not isinstance(given, Mapping) or not all(
        isinstance(aliases, list | tuple) and aliases for aliases in given.values()
    ):
        raise ImproperlyConfigured(
            "HASQL_REPLICAS is a dictionary of lists, as in {'default': ['replica']}: the aliases "
            "of the replicas of each master"
        )
    pairs = {str(master): [str(each) for each in aliases] for master, aliases in given.items()}
    named = [*pairs, *(alias for aliases in pairs.values() for alias in aliases)]
    for alias in named:
        if alias not in connections:
            raise ImproperlyConfigured(
                f"ReplicaRouter: DATABASES has no alias {alias!r}; add it, or name in "
                "HASQL_REPLICAS the aliases that are there"
            )
        if named.count(alias) > 1:
            raise ImproperlyConfigured(f"HASQL_REPLICAS names {alias!r} more than once")
    return pairs


def _has_to_read(master: str) -> bool:
    connection = connections[master]
    return (
        connection.in_atomic_block
        or has_to_read(master)
        # set_autocommit(False): a transaction of the application's own
        or (
            connection.connection is not None
            and not connection.autocommit
            and bool(connection.settings_dict["AUTOCOMMIT"])
        )
    )


def _has_replica(alias: str) -> bool:
    # Another backend watches nothing, and is taken at its word.
    return bool(getattr(connections[alias], "has_replica", True))
