"""The client program that ``dbshell`` runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.backends.postgresql.client import DatabaseClient

from hasql.contrib.django.manager_settings import role_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("ClusterClient",)


class ClusterClient(DatabaseClient):
    """Runs psql, which tries the hosts in turn until one has the role of the alias."""

    @classmethod
    def settings_to_cmd_args_env(
        cls, settings_dict: dict[str, Any], parameters: Iterable[str]
    ) -> tuple[list[str], dict[str, str] | None]:
        """Return the command line, and the environment to run it in."""
        args, env = super().settings_to_cmd_args_env(settings_dict, parameters)
        wanted = "prefer-standby" if role_of(settings_dict) == "replica" else "read-write"
        wanted = settings_dict["OPTIONS"].get("target_session_attrs", wanted)
        return args, {**(env or {}), "PGTARGETSESSIONATTRS": wanted}
