"""What an acquire wants of the session of the connection that it gets."""

from dataclasses import replace
from typing import Any, Final

from hasql._leasing.lease import Lease
from hasql._leasing.lease_settings import LeaseSettings
from hasql._routing.request import MASTER
from hasql.errors import ConfigurationError
from hasql.resilience.session_defaults import SessionDefaults

__all__ = ("wanted_by", "wanted_by_all")

_ENFORCED_FOR_ALL: Final = LeaseSettings(enforce_read_only=True, enforced_for_all=True)


def wanted_by_all(session: SessionDefaults | None) -> LeaseSettings | None:
    """Return what every acquire of a manager wants. None: no more than a login sets up."""
    return _ENFORCED_FOR_ALL if session is not None and session.enforce_read_only else None


def wanted_by(session: SessionDefaults, lease: Lease[Any, Any]) -> LeaseSettings:
    """Return what an acquire with its own `session` wants.

    Raises TypeError, and ConfigurationError where `enforce_read_only` has no meaning.
    """
    if not isinstance(session, SessionDefaults):
        msg = f"session must be a hasql.resilience.SessionDefaults, not {session!r}"
        raise TypeError(msg)
    wanted: LeaseSettings = lease.settings or LeaseSettings()
    if session.enforce_read_only:
        if lease.request is MASTER or lease.fixed_node is not None:
            raise ConfigurationError(
                "enforce_read_only applies only to what acquire_replica lends; on a master, "
                "begin a transaction that must not write as READ ONLY"
            )
        wanted = replace(wanted, enforce_read_only=True)
    return replace(wanted, overrides=session.parameters())
