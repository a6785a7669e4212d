"""The module that Django looks for in a backend: it holds the connection wrapper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.backends.base.base import NO_DB_ALIAS

from hasql.contrib.django.client import ClusterClient
from hasql.contrib.django.creation import ClusterCreation
from hasql.contrib.django.cursors import NoticingCursor, NoticingDebugCursor
from hasql.contrib.django.dropped_database import close_database
from hasql.contrib.django.leasing_wrapper import LeasingWrapper
from hasql.contrib.django.manager_settings import role_of
from hasql.contrib.django.request_writes import forget_writes

if TYPE_CHECKING:
    from hasql.sync.psycopg3 import PoolManager

__all__ = ("DatabaseWrapper",)


class DatabaseWrapper(LeasingWrapper):
    """Django's wrapper for PostgreSQL, with connections that come from a pool manager.

    ``HOST`` names all hosts of the cluster; ``OPTIONS["hasql"]`` holds the role and the pool
    manager's options.
    """

    client_class = ClusterClient
    creation_class = ClusterCreation

    @property
    def manager(self) -> PoolManager:
        """The pool manager of this alias; others with the same cluster and options share it."""
        return self._shared(self.get_connection_params()).pool

    @property
    def has_replica(self) -> bool:
        """Whether a replica can serve reads of this alias; always True if its role is master."""
        if role_of(self.settings_dict) == "master":
            return True
        return self._shared(self.get_connection_params()).has_replica

    def make_cursor(self, cursor: Any) -> Any:
        """Wrap a cursor; unless the alias's role is replica, the wrapper notices writes."""
        if role_of(self.settings_dict) == "replica":
            return super().make_cursor(cursor)
        return NoticingCursor(cursor, self)

    def make_debug_cursor(self, cursor: Any) -> Any:
        """Wrap a cursor for debugging, as `make_cursor` does."""
        if role_of(self.settings_dict) == "replica":
            return super().make_debug_cursor(cursor)
        return NoticingDebugCursor(cursor, self)

    def close_if_unusable_or_obsolete(self) -> None:
        """Close an unusable connection at the beginning or the end of a request.

        A connection whose host has lost its role, was fenced or has left the cluster is unusable,
        too.
        """
        forget_writes()
        if self._no_longer_fits:
            self.close()
        super().close_if_unusable_or_obsolete()

    def close_pool(self) -> None:
        """Close the pool managers of this database before it is copied or dropped."""
        if self.alias != NO_DB_ALIAS:
            close_database(self.settings_dict, self.settings_dict["NAME"])
