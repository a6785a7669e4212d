"""What was written in this request, and which masters it therefore has to read from."""

from __future__ import annotations

import re
from contextvars import ContextVar
from threading import local
from typing import TYPE_CHECKING, Any

from django.core.signals import request_finished, request_started

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = (
    "PinnedMasters",
    "current_pinned",
    "end_of_work",
    "has_to_read",
    "is_write",
    "note_write",
)

# The words with which a statement begins that leaves the database as it is. One that begins with a
# comment is looked at behind it. A statement may be long, and the thread that executes it keeps all
# others from running while it is matched: what is repeated is possessive, so that nothing is looked
# at twice. A comment with another one in it, which PostgreSQL nests, is not looked behind.
_READ = re.compile(
    r"""(?: [\s(] | --[^\n\r]*+[\n\r] | /\* (?: [^*/] | \*(?!/) | /(?!\*) )*+ \*/ )*+
    (?: SELECT | EXPLAIN(?!.*\bANALY[SZ]E\b) | WITH(?!.*\b(?:INSERT|UPDATE|DELETE|MERGE)\b)
      | SHOW | SET | RESET | VALUES | TABLE | DECLARE | FETCH | MOVE | CLOSE
      | BEGIN | START | COMMIT | ROLLBACK | SAVEPOINT | RELEASE )\b""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


class PinnedMasters:
    """The aliases of masters that one request reads from, and no replica of theirs."""

    def __init__(self, before: Iterable[str] = ()) -> None:
        #: What this user has written in earlier requests.
        self.before = frozenset(before)
        #: What this request has written; from any thread that works for it.
        self.written: set[str] = set()


class _OfThread(local):
    """What the thread of a request has written: there is one also without the middleware."""

    def __init__(self) -> None:
        self.in_request = False
        self.written: set[str] = set()


_of_thread = _OfThread()
#: Set by the middleware; it follows a request into the threads that `sync_to_async` uses.
current_pinned: ContextVar[PinnedMasters | None] = ContextVar("current_pinned", default=None)


def is_write(statement: object) -> bool:
    """Tell whether a statement may have changed the database.

    A function called by a SELECT may, too, and nothing here can know.
    """
    return not isinstance(statement, str) or _READ.match(statement) is None


def note_write(alias: str) -> None:
    """Have reads of this request go to a master."""
    _of_thread.written.add(alias)
    pinned = current_pinned.get()
    if pinned is not None:
        pinned.written.add(alias)


def has_to_read(alias: str) -> bool:
    """Tell whether this request has to read from that master."""
    if alias in _of_thread.written:
        return True
    pinned = current_pinned.get()
    return pinned is not None and (alias in pinned.written or alias in pinned.before)


def end_of_work() -> None:
    """Forget what was written, outside of a request: what a task or a command does has an end."""
    if not _of_thread.in_request:
        _of_thread.written.clear()


def _begin(**_: Any) -> None:
    _of_thread.in_request = True
    _of_thread.written.clear()
    current_pinned.set(None)


def _end(**_: Any) -> None:
    _of_thread.in_request = False
    _of_thread.written.clear()
    # A body that was streamed has kept them until here.
    current_pinned.set(None)


request_started.connect(_begin, dispatch_uid="hasql.contrib.django.begin")
request_finished.connect(_end, dispatch_uid="hasql.contrib.django.end")
