"""The query of a URL as SQLAlchemy reads it: the owner and the type of each parameter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy.util import asbool

from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from hasql.cluster.dsn import Dsn

__all__ = ("UrlQuery", "flag", "not_text", "text", "whole_number")


def text(value: str) -> str:
    """Return the value unchanged."""
    return value


def whole_number(value: str) -> int:
    """Read an int. Raises ValueError."""
    return int(value)


def flag(value: str) -> bool:
    """Read a bool as SQLAlchemy does. Raises ValueError."""
    read: bool = asbool(value)
    return read


def not_text(value: str) -> Any:
    """Refuse an argument whose value text cannot express. Raises TypeError."""
    raise TypeError(type(value))


class UrlQuery:
    """The parameters in a URL's query for the library's `connect`, and for SQLAlchemy's plugins.

    All other parameters stay in the DSN, and the library reads them there.
    """

    def __init__(self, dsn: Dsn, readers: Mapping[str, Callable[[str], Any]]) -> None:
        given = dict(dsn.params)
        self.arguments = {
            name: _read(name, value, readers[name])
            for name, value in given.items()
            if name in readers
        }
        #: The plugins to load, in the form in which SQLAlchemy takes them in a URL.
        self.plugins: dict[str, Sequence[str]] = {}
        if names := given.pop("plugin", ""):
            self.plugins["plugin"] = names.split(",")
        self._rest = {name: v for name, v in given.items() if name not in readers}
        self._of_plugins: frozenset[str] = frozenset()

    @property
    def rest(self) -> dict[str, str]:
        """The parameters that are not arguments of `connect`; plugins may take some of them."""
        return dict(self._rest)

    def leave_to_plugins(self, names: Iterable[str]) -> None:
        """Take note of the parameters that plugins have taken."""
        self._of_plugins = frozenset(names)

    @property
    def of_plugins(self) -> dict[str, Sequence[str]]:
        """The parameters that only plugins get, in the URL that they are given."""
        taken = {name: value for name, value in self._rest.items() if name in self._of_plugins}
        return {**taken, **self.plugins}

    def dsn_without(self, dsn: Dsn) -> str:
        """Return a URL for the one host of `dsn`, without parameters that are given elsewhere."""
        kept = self._rest.keys() - self._of_plugins
        params = tuple((name, value) for name, value in dsn.params if name in kept)
        return replace(dsn, params=params).for_host(dsn.hosts[0])

    def connect_args(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of `connect`; `connect_args` override the URL."""
        return {**self.arguments, **kwargs.get("connect_args", {})}


def _read(name: str, value: str, reader: Callable[[str], Any]) -> Any:
    try:
        return reader(value)
    except TypeError:
        msg = f"{name} in the DSN cannot be text: give it in connect_args"
    except ValueError:
        kind = {whole_number: "a whole number", flag: "true or false", float: "a number"}[reader]
        msg = f"{name} in the DSN must be {kind}"
    raise ConfigurationError(msg)
