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

# A statement may be long, and the thread that executes it keeps all others from running while it
# is matched: what is repeated is possessive, so that nothing is looked at twice. A comment with
# another one in it, which PostgreSQL nests, is none here.
_COMMENT = r"""--[^\n\r]*+ | /\* [^*/]*+ (?: (?: \*(?!/) | /(?!\*) ) [^*/]*+ )*+ \*/"""
_FIRST_WORD = re.compile(rf"(?: [\s(] | {_COMMENT} )*+ (\w++)", re.VERBOSE)
# What may hold semicolons and words that mean nothing. Whether a quote behind a backslash ends a
# string depends on the string and the session: one with the like is none here.
_NO_CODE = re.compile(
    rf"""' [^'\\]*+ (?: \\(?!') [^'\\]*+ )*+ ' | "[^"]*+" | {_COMMENT}""", re.VERBOSE
)
# What is left of the above where it was not recognized; and a dollar may begin a string, too.
_UNCLEAR = re.compile(r"""['"$] | /\*""", re.VERBOSE)
_WORD = re.compile(r"\w++")
#: The words with which a statement begins that leaves the database as it is, each with the words
#: that one has which does not.
_READS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("values", "table", "show", "set", "reset"), frozenset()),
    **dict.fromkeys(("declare", "fetch", "move", "close"), frozenset()),
    **dict.fromkeys(("begin", "start", "rollback", "abort", "end"), frozenset()),
    **dict.fromkeys(("savepoint", "release"), frozenset()),
    "commit": frozenset({"prepared"}),
    "explain": frozenset({"analyze", "analyse"}),
    "select": frozenset({"into"}),
    "with": frozenset({"insert", "update", "delete", "merge", "into"}),
}


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
    """Tell whether a statement, or one of several in a string, may have changed the database.

    Whatever is not surely a read may have. A function called by a SELECT may, too, and nothing here
    can know.
    """
    if not isinstance(statement, str):
        return True
    word = _first_word(statement)
    if word not in _READS:
        return True  # at once, as what is written may be long
    if ";" not in statement and not _is_any_in(statement.lower(), _READS[word]):
        return False  # as nearly all are
    code = _NO_CODE.sub(" ", statement)
    if _UNCLEAR.search(code) is not None:
        return True
    return any(_changes(each) for each in code.split(";") if each and not each.isspace())


def _first_word(statement: str) -> str | None:
    found = _FIRST_WORD.match(statement)
    return None if found is None else found[1].lower()


def _changes(statement: str) -> bool:
    """Tell whether one statement, without its strings and comments, may change the database."""
    word = _first_word(statement)
    if word not in _READS:
        return True
    changing, lowered = _READS[word], statement.lower()
    return _is_any_in(lowered, changing) and not changing.isdisjoint(_WORD.findall(lowered))


def _is_any_in(lowered: str, words: frozenset[str]) -> bool:
    """Tell whether one of some words may be in a text, or a part of another word is."""
    return any(word in lowered for word in words)


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
