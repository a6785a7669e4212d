"""The files that asyncpg reads for TLS: which of them has made a connect fail."""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hasql.cluster.dsn import Dsn
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("naming_files",)

#: The DSN parameters that name a file, and the environment variable that asyncpg reads instead.
_FILES = {
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
}
_OF_FILES = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ssl.SSLError,
)


@contextmanager
def naming_files(dsn: str) -> Iterator[None]:
    """Raise a ConfigurationError that names the file which has made a connect fail.

    asyncpg itself only says "No such file or directory", the same as for a Unix socket on which no
    server listens.
    """
    try:
        yield
    except _OF_FILES as error:
        parsed = Dsn.parse(dsn)
        given = dict(parsed.params)
        for parameter, variable in _FILES.items():
            path = given.get(parameter) or os.environ.get(variable)
            if path and not parsed.hosts[0].host.startswith("/") and (why := _unreadable(path)):
                msg = f"{parameter} cannot be read: {why}: {path!r}"
                raise ConfigurationError(msg) from error
        raise


def _unreadable(path: str) -> str | None:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.strerror
    return "it is a directory" if Path(path).is_dir() else None
