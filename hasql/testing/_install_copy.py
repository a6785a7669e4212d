"""A copy of a PostgreSQL installation that the servers' account can read.

It is needed when root runs tests from a virtual environment in a directory that only root may
enter.
"""

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hasql.testing._account import Account
from hasql.testing.errors import ClusterError

__all__ = ("may_read", "readable_copy")

_ABANDONED = 3600.0
"""Seconds after which an unfinished copy is assumed to be left over from a killed process."""


def may_read(bindir: Path, account: Account) -> bool:
    """Tell whether the account can run the programs and read the files that they load.

    A process under that account tries it, because access lists and mounts count as well as modes.
    """
    if account.uid is None:
        return True
    samples = [bindir / "postgres", bindir / "initdb", *_samples(bindir)]
    try:
        return (
            subprocess.run(
                ["/bin/sh", "-c", 'for f; do test -r "$f" || exit 1; done', "sh", *samples],
                user=account.uid,
                group=account.gid,
                extra_groups=[],
                cwd="/",
                capture_output=True,
                timeout=10,
                check=False,
            ).returncode
            == 0
        )
    except OSError:
        return False


def _samples(bindir: Path) -> list[Path]:
    """Return one file from each other directory that a server reads: share, lib, bundled libs."""
    install = bindir.parent
    found = []
    for directory, pattern in [
        (install / "share", "**/postgres.bki"),
        (install / "lib", "**/dict_snowball.*"),
        *((directory, "*") for directory in _bundled_libraries(install)),
    ]:
        found.extend(list(directory.glob(pattern))[:1])
    return found


def _bundled_libraries(install: Path) -> list[Path]:
    """Return where a wheel keeps the shared libraries that its programs load by relative path."""
    package = install.parent
    places = (package.parent / f"{package.name}.libs", package / ".dylibs")
    return [place for place in places if place.is_dir()]


def readable_copy(bindir: Path, version: str, account: Account) -> Path:
    """Return the programs' directory in a copy that `account` can read, made once per version.

    The copy and the directories above it belong to root, so that no other user can replace its
    programs. A single rename puts the copy in place: if two processes make it at the same time,
    one of them wins, and both use that copy.

    :raises ClusterError: if no directory of this machine can hold the copy
    """
    install = bindir.parent
    package = install.parent
    program = (bindir / "postgres").stat()
    identity = f"{bindir}|{version}|{program.st_mtime_ns}|{program.st_size}"
    key = f"{version}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    for cache in _caches():
        copied = cache / key / package.name / install.name / bindir.name
        if not copied.exists():
            _make_copy(install, cache, key)
        if may_read(copied, account):
            return copied
    message = (
        f"account {account.name!r}, which runs the servers, cannot read {install}, and there is no "
        "place to keep a copy for it; install hasql where other users can read, or run as an "
        "ordinary user"
    )
    raise ClusterError(message)


def _caches() -> Iterator[Path]:
    """Yield directories that belong to root and that nobody else can write to."""
    for parent in (Path("/var/cache"), Path("/var/tmp"), Path(tempfile.gettempdir())):  # noqa: S108
        cache = parent / "hasql-testing"
        try:
            cache.mkdir(mode=0o755, exist_ok=True)
            status = cache.lstat()
        except OSError:
            continue  # read-only, or not there
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
            continue  # another user made it first, in a directory that everybody may write to
        cache.chmod(0o755)  # whatever the umask was
        yield cache


def _make_copy(install: Path, cache: Path, key: str) -> None:
    for unfinished in cache.glob("unfinished-*"):
        if time.time() - unfinished.stat().st_mtime > _ABANDONED:
            shutil.rmtree(unfinished, ignore_errors=True)
    package = install.parent
    draft = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache))
    try:
        shutil.copytree(install, draft / package.name / install.name, symlinks=True)
        for libraries in _bundled_libraries(install):
            target = draft / libraries.relative_to(package.parent)
            shutil.copytree(libraries, target, symlinks=True)
        _open_to_readers(draft)
        try:
            draft.rename(cache / key)
        except OSError:
            if not (cache / key).is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _open_to_readers(tree: Path) -> None:
    """Let everybody read, and only root write."""
    for path in (tree, *tree.rglob("*")):
        if path.is_symlink():
            continue
        os.chown(path, 0, 0)
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)
