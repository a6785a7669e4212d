"""Creates and drops the databases of tests."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql.creation import DatabaseCreation

from hasql.contrib.django.dropped_database import close_database
from hasql.contrib.django.manager_settings import as_master

__all__ = ("ClusterCreation",)


class ClusterCreation(DatabaseCreation):
    """Django's own class, but pool managers of a database close before it is copied or dropped."""

    def set_as_test_mirror(self, primary_settings_dict: dict[str, Any]) -> None:
        """Make the alias use the master, so that a test can read what it has written."""
        super().set_as_test_mirror(primary_settings_dict)
        as_master(self.connection.settings_dict)

    def create_test_db(self, *args: Any, **kwargs: Any) -> str:
        """Create the test database; one left over from an earlier run is dropped first."""
        *_, name = self.test_db_signature()
        close_database(self.connection.settings_dict, name)
        return super().create_test_db(*args, **kwargs)

    def clone_test_db(self, suffix: str, *args: Any, **kwargs: Any) -> None:
        """Copy the test database for a worker; a copy left over from earlier is dropped first."""
        close_database(
            self.connection.settings_dict, self.get_test_db_clone_settings(suffix)["NAME"]
        )
        super().clone_test_db(suffix, *args, **kwargs)

    def destroy_test_db(self, *args: Any, **kwargs: Any) -> None:
        """Drop the test database or, with `suffix`, a copy of it."""
        name = self.connection.settings_dict["NAME"]
        if kwargs.get("suffix") is not None:
            name = self.get_test_db_clone_settings(kwargs["suffix"])["NAME"]
        close_database(self.connection.settings_dict, name)
        super().destroy_test_db(*args, **kwargs)
