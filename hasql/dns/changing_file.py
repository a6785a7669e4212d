"""A file that is read again when it has changed, such as /etc/hosts."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ("ChangingFile",)

_T = TypeVar("_T")


class ChangingFile(Generic[_T]):
    """What stands in a file; one that is not there counts as empty."""

    def __init__(self, path: str | os.PathLike[str], read: Callable[[str], _T]) -> None:
        self._path = Path(path)
        self._read = read
        self._last: tuple[object, _T] | None = None

    def contents(self) -> _T:
        """Return what `read` made of its text, as of now.

        Any thread may ask: two that find it changed both read it.
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
