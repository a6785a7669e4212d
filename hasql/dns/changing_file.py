"""A file, such as /etc/hosts, that is read again when it has changed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ("ChangingFile",)

_T = TypeVar("_T")


class ChangingFile(Generic[_T]):
    """The contents of a file, as `read` returns them. A missing file counts as empty."""

    def __init__(self, path: str | os.PathLike[str], read: Callable[[str], _T]) -> None:
        self._path = Path(path)
        self._read = read
        self._last: tuple[object, _T] | None = None

    def contents(self) -> _T:
        """Return what `read` makes of the file's present text.

        Any thread may call this. If two threads find the file changed, both read it, which is
        harmless.
        """
        try:
            status = self._path.stat()
            state: object = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            state = None
        last = self._last
        if last is None or last[0] != state:
            last = self._last = (state, self._read(self._text()))
        return last[1]

    def _text(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
