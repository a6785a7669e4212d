"""Arguments that are hasql's own business: refused, each with the reason."""

from collections.abc import Mapping
from typing import Any, Final

from hasql.errors import ConfigurationError

__all__ = ("ROUTING", "refuse_keywords")

ROUTING: Final[Mapping[str, str]] = {
    **dict.fromkeys(("dsn", "conninfo"), "the DSN is the pool manager's first argument"),
    **dict.fromkeys(("host", "hostaddr", "port"), "name the hosts in the DSN"),
    **dict.fromkeys(
        ("target_session_attrs", "load_balance_hosts"), "hasql itself chooses among the hosts"
    ),
    "loop": "a pool manager works in the event loop in which it is used first",
}
"""What drivers take that says where to connect to and from where, and why it is not taken here."""


def refuse_keywords(kwargs: Mapping[str, Any], reasons: Mapping[str, str], said: str) -> None:
    """Refuse arguments that are hasql's own business; `said` with the name, then the reason.

    Raises ConfigurationError.
    """
    for name in kwargs:
        if name in reasons:
            raise ConfigurationError(f"{said.format(name)}: {reasons[name]}")
