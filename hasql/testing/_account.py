"""The account that servers run under: PostgreSQL refuses to run as root."""

import os
import pwd
from dataclasses import dataclass

from hasql.testing.errors import ClusterError

__all__ = ("Account",)


@dataclass(frozen=True, slots=True)
class Account:
    """The account that the servers run as.

    `uid` and `gid` are None when the servers run as the caller.
    """

    name: str
    uid: int | None = None
    gid: int | None = None

    @property
    def groups(self) -> list[int] | None:
        """The supplementary groups to set: an empty list, or None to leave the caller's alone."""
        return None if self.uid is None else []

    @classmethod
    def for_servers(cls) -> "Account":
        """Return the caller's account; for root, the account postgres, else nobody.

        :raises ClusterError: if the caller is root and the machine has neither account
        """
        if os.geteuid() != 0:
            return cls(f"user {os.geteuid()}")
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            if entry.pw_uid != 0:
                return cls(name, entry.pw_uid, entry.pw_gid)
        message = (
            "PostgreSQL does not run as root, and this machine has neither an account 'postgres' "
            "nor 'nobody' to run it as; add one, or start as an ordinary user"
        )
        raise ClusterError(message)
