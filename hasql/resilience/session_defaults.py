"""Session defaults: what each connection of a manager is set to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from hasql.cluster.checks import check_flag, check_seconds
from hasql.errors import ConfigurationError

__all__ = ("SessionDefaults",)

#: The longest that PostgreSQL keeps of a name, in bytes.
_LONGEST_NAME: Final = 63
#: The most milliseconds that its settings take: 24 days.
_MOST_MILLISECONDS: Final = 2**31 - 1
_PLAIN_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
_TIMES: Final = {
    "statement_timeout": "statement_timeout",
    "lock_timeout": "lock_timeout",
    "idle_in_transaction_timeout": "idle_in_transaction_session_timeout",
}


@dataclass(frozen=True, slots=True)
class SessionDefaults:
    """What each connection is set to. What is None is left as it is.

    Args:
        statement_timeout: Seconds that a statement may take, in whole milliseconds; 0: for ever.
        lock_timeout: Seconds that a statement may wait for a lock; 0: for ever.
        idle_in_transaction_timeout: Seconds for which a transaction may stand idle before its
            session is ended; 0: for ever.
        application_name: What the session is called in `pg_stat_activity`, in ASCII.
        search_path: The schemas in which names are looked up, as they are called, without quotes;
            `$user` stands for the schema of the user. None at all: every name needs its schema.
        enforce_read_only: Whether what `acquire_replica` lends does not write, on a master either.

    Raises:
        TypeError: An argument of a wrong type, such as a str for `search_path`.
        ConfigurationError: A value that no server takes.
    """

    statement_timeout: float | None = None
    lock_timeout: float | None = None
    idle_in_transaction_timeout: float | None = None
    application_name: str | None = None
    search_path: Sequence[str] | None = None
    enforce_read_only: bool = False

    def __post_init__(self) -> None:
        for name in _TIMES:
            if getattr(self, name) is not None:
                _milliseconds(name, getattr(self, name))
        if self.application_name is not None:
            _check_application_name(self.application_name)
        if self.search_path is not None:
            object.__setattr__(self, "search_path", _schemas(self.search_path))
        check_flag("enforce_read_only", self.enforce_read_only)

    def parameters(self) -> dict[str, str]:
        """Return the settings by PostgreSQL's names, with values as a login takes them."""
        given: dict[str, str] = {}
        # First what a pooler may track: it names the first that it refuses, and has taken those.
        if self.application_name is not None:
            given["application_name"] = self.application_name
        if self.search_path is not None:
            given["search_path"] = ", ".join(map(_quoted, self.search_path))
        for name, setting in _TIMES.items():
            if (seconds := getattr(self, name)) is not None:
                given[setting] = str(_milliseconds(name, seconds))
        return given


def _milliseconds(name: str, seconds: object) -> int:
    milliseconds = ceil(check_seconds(name, seconds) * 1000)
    if milliseconds > _MOST_MILLISECONDS:
        msg = f"{name} must be at most {_MOST_MILLISECONDS // 1000} seconds, not {seconds!r}"
        raise ConfigurationError(msg)
    return milliseconds


def _check_application_name(name: object) -> None:
    if not isinstance(name, str):
        msg = f"application_name must be a str, not {name!r}"
        raise TypeError(msg)
    if not (name.isascii() and (name.isprintable())) or len(name) > _LONGEST_NAME:
        msg = (
            f"application_name must be at most {_LONGEST_NAME} printable characters of ASCII, "
            f"which is all that PostgreSQL shows of it, not {name!r}"
        )
        raise ConfigurationError(msg)


def _schemas(given: object) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        msg = f"search_path must be a sequence of schemas, such as ['app', 'public'], not {given!r}"
        raise TypeError(msg)
    for name in given:
        if not isinstance(name, str):
            msg = f"search_path must hold names of schemas, not {name!r}"
            raise TypeError(msg)
        if not name or "\0" in name or len(name.encode(errors="replace")) > _LONGEST_NAME:
            msg = (
                f"search_path must hold names of schemas, each of 1 to {_LONGEST_NAME} bytes and "
                f"without a NUL, not {name!r}"
            )
            raise ConfigurationError(msg)
    return tuple(given)


def _quoted(schema: str) -> str:
    if _PLAIN_NAME.fullmatch(schema):
        return schema
    escaped = schema.replace('"', '""')
    return f'"{escaped}"'
