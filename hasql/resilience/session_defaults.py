"""Session defaults: the settings that each connection of a manager gets."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from hasql.cluster.checks import check_flag, check_seconds
from hasql.errors import ConfigurationError

__all__ = ("SessionDefaults",)

#: The longest name that PostgreSQL keeps, in bytes.
_LONGEST_NAME: Final = 63
#: The most milliseconds that PostgreSQL's settings accept: 24 days.
_MOST_MILLISECONDS: Final = 2**31 - 1
_PLAIN_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
_TIMES: Final = {
    "statement_timeout": "statement_timeout",
    "lock_timeout": "lock_timeout",
    "idle_in_transaction_timeout": "idle_in_transaction_session_timeout",
}


@dataclass(frozen=True, slots=True)
class SessionDefaults:
    """The settings that each connection gets. A setting that is None is left as it is.

    The timeouts are seconds, rounded up to whole milliseconds; 0 means no limit.

    Args:
        statement_timeout: How long a statement may take.
        lock_timeout: How long a statement may wait for a lock.
        idle_in_transaction_timeout: How long a transaction may be idle before its session is
            ended.
        application_name: The name of the session in `pg_stat_activity`, in ASCII.
        search_path: The schemas in which names are looked up, by their plain names, without quotes.
            `$user` stands for the schema of the user. With an empty sequence every name needs its
            schema.
        enforce_read_only: Whether leases of `acquire_replica` are read-only, on a master as well.

    Raises:
        TypeError: An argument has the wrong type, such as a str for `search_path`.
        ConfigurationError: No server accepts a value.
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
        """Return the settings by PostgreSQL's names, with values in the form a login takes."""
        given: dict[str, str] = {}
        # Settings that a pooler may track come first: its refusal names the first one that it does
        # not accept, and so it has accepted those before.
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
