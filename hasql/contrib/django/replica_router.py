"""The router that sends reads to replicas."""

from __future__ import annotations

from collections.abc import Mapping
from random import choice
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections, router

from hasql.contrib.django.request_writes import must_read_master

if TYPE_CHECKING:
    from django.db.models import Model

__all__ = ("ReplicaRouter", "is_read_by_router")


class ReplicaRouter:
    """Sends reads to replicas, and everything else to their master.

    ``HASQL_REPLICAS`` names, for each master's alias, the aliases of its replicas; by default it is
    ``{"default": ["replica"]}``. If a master has several such aliases, one is chosen at random.

    Reads go to the master within ``atomic()`` on it, after a write in the same request, and while
    no replica can serve. If the last replica is lost after the choice, its alias leads to the
    master itself, unless ``fallback_master`` in the options of that alias is False. If another
    router says which database a model is written to, its reads go to a replica of that database.

    Raises:
        ImproperlyConfigured: ``HASQL_REPLICAS`` is malformed, or names an alias that is not in
            ``DATABASES``.
    """

    def __init__(self) -> None:
        self._replicas = _read_replicas(getattr(settings, "HASQL_REPLICAS", None))
        self._masters = {master: master for master in self._replicas}
        for master, replicas in self._replicas.items():
            self._masters.update(dict.fromkeys(replicas, master))

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        """Choose the alias that a model is read from."""
        master = self.db_for_write(model, **hints)
        if master is None or _must_read_master(master):
            return master
        present = [alias for alias in self._replicas[master] if _has_replica(alias)]
        if not present:
            return master
        return present[0] if len(present) == 1 else choice(present)  # noqa: S311  # no secret

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        """Choose the alias that a model is written to; None leaves the choice to other routers."""
        instance = hints.get("instance")
        alias = None if instance is None else instance._state.db  # noqa: SLF001  # documented
        if alias is None:
            alias = self._ask_other_routers(model, hints) or DEFAULT_DB_ALIAS
        return self._masters.get(alias)

    def allow_relation(self, obj1: Model, obj2: Model, **_: Any) -> bool | None:
        """Allow relations between objects read from a master and objects from its replicas."""
        first = self._masters.get(obj1._state.db or "")  # noqa: SLF001  # documented
        second = self._masters.get(obj2._state.db or "")  # noqa: SLF001  # documented
        return True if first is not None and first == second else None

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool | None:  # noqa: ARG002  # Django's
        """Forbid migrations on replicas: their master replicates its own."""
        return False if self._masters.get(db, db) != db else None

    def has_replica_alias(self, alias: str) -> bool:
        """Tell whether an alias is one of a master's replicas."""
        return self._masters.get(alias, alias) != alias

    def _ask_other_routers(self, model: type[Model], hints: dict[str, Any]) -> str | None:
        """Ask the other routers for the alias that a model is written to."""
        for other in router.routers:
            if not isinstance(other, ReplicaRouter) and hasattr(other, "db_for_write"):
                alias: str | None = other.db_for_write(model, **hints)
                if alias:
                    return alias
        return None


def is_read_by_router(alias: str) -> bool:
    """Tell whether one of the project's routers sends a master's reads to an alias."""
    return any(
        isinstance(each, ReplicaRouter) and each.has_replica_alias(alias) for each in router.routers
    )


def _read_replicas(given: object) -> dict[str, list[str]]:
    if given is None:
        given = {DEFAULT_DB_ALIAS: ["replica"]}
    if not isinstance(given, Mapping) or not all(
        isinstance(aliases, list | tuple) and aliases for aliases in given.values()
    ):
        raise ImproperlyConfigured(
            "HASQL_REPLICAS must be a dictionary of lists, as in {'default': ['replica']}: the "
            "aliases of the replicas of each master"
        )
    pairs = {str(master): [str(each) for each in aliases] for master, aliases in given.items()}
    named = [*pairs, *(alias for aliases in pairs.values() for alias in aliases)]
    for alias in named:
        if alias not in connections:
            raise ImproperlyConfigured(
                f"ReplicaRouter: DATABASES has no alias {alias!r}; add it, or name existing "
                "aliases in HASQL_REPLICAS"
            )
        if named.count(alias) > 1:
            raise ImproperlyConfigured(f"HASQL_REPLICAS names {alias!r} more than once")
    return pairs


def _must_read_master(master: str) -> bool:
    connection = connections[master]
    return (
        connection.in_atomic_block
        or must_read_master(master)
        # The application called set_autocommit(False), and so manages transactions itself.
        or (
            connection.connection is not None
            and not connection.autocommit
            and bool(connection.settings_dict["AUTOCOMMIT"])
        )
    )


def _has_replica(alias: str) -> bool:
    # Another backend does not watch its hosts; assume that its replica is there.
    return bool(getattr(connections[alias], "has_replica", True))
