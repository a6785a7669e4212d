"""Cursors on a master; they notice writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.backends.postgresql.base import CursorDebugWrapper
from django.db.backends.utils import CursorWrapper

from hasql.contrib.django.request_writes import is_write, note_write

if TYPE_CHECKING:
    _Base = CursorWrapper
else:
    _Base = object

__all__ = ("NoticingCursor", "NoticingDebugCursor")


class _WriteNotingMixin(_Base):
    """Before a statement that may write is executed, notes that the request writes."""

    def execute(self, sql: Any, params: Any = None) -> Any:
        self._notice(sql)
        return super().execute(sql, params)

    def executemany(self, sql: Any, param_list: Any) -> Any:
        self._notice(sql)
        return super().executemany(sql, param_list)

    def callproc(self, procname: str, params: Any = None, kparams: Any = None) -> Any:
        note_write(self.db.alias)
        return super().callproc(procname, params, kparams)

    def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        note_write(self.db.alias)
        # Only the debugging wrapper defines copy(). The other one finds it with __getattr__, which
        # super() does not use.
        own = getattr(super(), "copy", None) or self.cursor.copy
        return own(statement, *args, **kwargs)

    def stream(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self._notice(query)
        return self.cursor.stream(query, *args, **kwargs)  # psycopg's own: Django does not wrap it

    def _notice(self, sql: Any) -> None:
        if is_write(sql):
            note_write(self.db.alias)


class NoticingCursor(_WriteNotingMixin, CursorWrapper):
    """Django's cursor wrapper, which also notices writes."""


class NoticingDebugCursor(_WriteNotingMixin, CursorDebugWrapper):
    """Django's cursor wrapper for debugging, which also notices writes."""
