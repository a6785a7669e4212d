"""Session settings: those that each connection of a pool gets when it is opened."""

import os
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from hasql.errors import ConfigurationError

__all__ = (
    "ALL_MADE",
    "NO_SETTINGS",
    "SessionSettings",
    "SettingsMade",
    "restore_query",
    "set_query",
)

#: A setting in libpq's `options`: ``-c name=value``, ``-cname=value`` or ``--name=value``.
_IN_OPTIONS: Final = re.compile(r"(?:-c\s*|--)([\w.-]+)\s*=\s*((?:\\.|[^\s\\])*)")
#: Where a session keeps the value of a setting from before a lease: no server has such a name.
_FORMER_PREFIX: Final = "hasql.before_"
_ESCAPED: Final = re.compile(r"\\(.)")
_CURRENT: Final = "(SELECT setting FROM pg_catalog.pg_settings WHERE name"
_TO_ESCAPE: Final = re.compile(r"([\s\\])")
#: Settings a pooler can track, as servers report them to clients; `search_path` from PostgreSQL 18.
_TRACKABLE: Final = frozenset({"application_name", "search_path"})


class SessionSettings:
    """Settings by their names, with values as a login takes them.

    A login passes them to the server as startup parameters. So they are the session's defaults, to
    which `RESET ALL` and `DISCARD ALL` return. If something in between refuses that, they are set
    by `SET` on a connection that leads to one server process. If a pooler leads a connection to
    another process with each transaction, the connection is asked for its settings, because the
    pooler may also have ignored them.
    """

    def __init__(self, parameters: Mapping[str, str] = MappingProxyType({})) -> None:
        self.parameters = MappingProxyType(dict(parameters))

    def __bool__(self) -> bool:
        return bool(self.parameters)

    # What a login gets

    def check(self, given: Mapping[str, object], where: str) -> None:
        """Refuse settings that the application sets to other values. Raises ConfigurationError."""
        found = {name: str(value) for name, value in given.items()}
        found |= _in_options(found.get("options", ""))
        for name in self.parameters.keys() & found.keys():
            if found[name] != self.parameters[name]:
                msg = (
                    f"session= sets {name} to {self.parameters[name]!r}, and {where} to "
                    f"{found[name]!r}: leave one of the two out"
                )
                raise ConfigurationError(msg)

    def as_options(self, given: str | None) -> str:
        """Return libpq's `options` with all settings that are not parameters of libpq itself.

        If the application gives no options, those of the environment (`PGOPTIONS`) come first,
        because libpq would no longer look there.
        """
        words = os.environ.get("PGOPTIONS", "") if given is None else given
        for name, value in self.parameters.items():
            if name != "application_name":
                escaped = _TO_ESCAPE.sub(r"\\\1", value)
                words += f" -c {name}={escaped}"
        return words.strip()

    # What a new connection is asked

    def question(self, pid: int) -> str:
        """Return SQL that has no row if the process `pid` answers, which the login named.

        Otherwise there is a pooler, and the SQL has the number of rows that `lacking` reads.
        """
        equals = "OPERATOR(pg_catalog.=)"
        marks = "".join(
            f" + CASE WHEN {_CURRENT} {equals} {_literal(name)}) {equals} {_literal(value)}"
            f" THEN 0 ELSE {2 << place} END"
            for place, (name, value) in enumerate(self.parameters.items())
        )
        return (
            "SELECT FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_backend_pid() "
            f"{equals} {pid} THEN 0 ELSE 1{marks} END)"
        )

    def lacking(self, rows: int) -> tuple[str, ...]:
        """Return which settings are not in force, by the number of rows of the question."""
        return tuple(name for place, name in enumerate(self.parameters) if rows - 1 & 2 << place)

    def query(self, names: Iterable[str] | None = None) -> str:
        """Return SQL that sets some of the settings for the session. None: all of them."""
        return set_query({name: self.parameters[name] for name in names or self.parameters})

    def before_refused(self, words: str) -> "SessionSettings":
        """Return the settings that a login may still name after one was refused with these words.

        A pooler goes through them in order and names the first that it does not accept.
        """
        taken: dict[str, str] = {}
        for name, value in self.parameters.items():
            if re.search(rf"\b{name}\b", words):
                return SessionSettings(taken)
            taken[name] = value
        return NO_SETTINGS

    def made_behind_pooler(self, rows: int) -> "SettingsMade":
        """Return what has become of the settings, by the number of rows of the question."""
        lacking = self.lacking(rows)
        tracked = tuple(x for x in self.parameters if x in _TRACKABLE and x not in lacking)
        # A reset changes what the pooler keeps for a client, too; so does setting them again.
        return SettingsMade(lacking, undone_by_reset=tracked)


NO_SETTINGS: Final = SessionSettings()


class SettingsMade(NamedTuple):
    """What has become of the settings of one connection."""

    #: The settings that are not in force.
    lacking: tuple[str, ...] = ()
    #: The settings that a `RESET ALL` undoes, so that they have to be set again after one.
    undone_by_reset: tuple[str, ...] = ()


ALL_MADE: Final = SettingsMade()


def set_query(
    settings: Mapping[str, str | None],
    *,
    kept: Mapping[str, str] = MappingProxyType({}),
    local: bool = False,
) -> str:
    """Return SQL of one row that sets these for the session; a value of None is the login's.

    Args:
        settings: The settings.
        kept: More settings, whose former values are kept on the server for `restore_query`.
        local: Whether they are set for the transaction alone.
    """
    # The server evaluates a list from left to right.
    values = [_set(name, _literal(value), local=local) for name, value in settings.items()]
    for name, value in kept.items():
        before = f"pg_catalog.concat('=', pg_catalog.current_setting({_literal(name)}))"
        values += [_set(_FORMER_PREFIX + name, before), _set(name, _literal(value))]
    return f"SELECT {', '.join(values)}"


def restore_query(kept: Iterable[str], settings: Mapping[str, str | None]) -> str:
    """Return SQL of one row that restores what `set_query` has kept, and sets others.

    If the application has reset the session meanwhile, the login's value is restored.
    """
    values = [_set(name, _literal(value)) for name, value in settings.items()]
    for name in kept:
        before = f"pg_catalog.current_setting({_literal(_FORMER_PREFIX + name)}, true)"
        is_kept = f"pg_catalog.starts_with({before}, '=')"
        values.append(_set(name, f"CASE WHEN {is_kept} THEN pg_catalog.substr({before}, 2) END"))
    return f"SELECT {', '.join(values)}"


def _set(name: str, value: str, *, local: bool = False) -> str:
    return f"pg_catalog.set_config({_literal(name)}, {value}, {str(local).lower()})"


def _literal(value: str | None) -> str:
    if value is None:
        return "NULL"
    # Correct for any `standard_conforming_strings`: E'' always treats a backslash as an escape.
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'" if "\\" in value else f"'{escaped}'"


def _in_options(options: str) -> dict[str, str]:
    return {
        name.replace("-", "_"): _ESCAPED.sub(r"\1", value)
        for name, value in _IN_OPTIONS.findall(options)
    }
