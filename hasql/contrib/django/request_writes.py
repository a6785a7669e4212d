"""Notes which masters a request has written to, and therefore has to read from."""

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
    "forget_writes",
    "is_write",
    "must_read_master",
    "note_write",
)

# A statement may be long, and no other thread runs while it is matched. All repetitions are
# therefore possessive, so that matching never backtracks. PostgreSQL nests comments; a comment that
# contains another one is not recognized here.
_COMMENT = r"""--[^\n\r]*+ | /\* [^*/]*+ (?: (?: \*(?!/) | /(?!\*) ) [^*/]*+ )*+ \*/"""
_FIRST_WORD = re.compile(rf"(?: [\s(] | {_COMMENT} )*+ (\w++)", re.VERBOSE)
# Strings, quoted names and comments: semicolons and keywords in them mean nothing. Whether a quote
# after a backslash ends a string depends on the string and the session, so a string with such a
# quote is not recognized here.
_NO_CODE = re.compile(
    rf"""' [^'\\]*+ (?: \\(?!') [^'\\]*+ )*+ ' | "[^"]*+" | {_COMMENT}""", re.VERBOSE
)
# Signs of a string, name or comment that was not recognized; a dollar may begin a string, too.
_UNCLEAR = re.compile(r"""['"$] | /\*""", re.VERBOSE)
_WORD = re.compile(r"\w++")
#: The first words of statements that only read. Each is mapped to the words that make such a
#: statement a write if they occur later in it.
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
    """The aliases of the masters that a request has to read from, instead of their replicas."""

    def __init__(self, before: Iterable[str] = ()) -> None:
        #: The masters that this user has written to in earlier requests.
        self.before = frozenset(before)
        #: The masters that this request has written to, in any thread that works for it.
        self.written: set[str] = set()


class _ThreadWrites(local):
    """The masters that a thread has written to in its request; works without the middleware."""

    def __init__(self) -> None:
        self.in_request = False
        self.written: set[str] = set()


_thread_writes = _ThreadWrites()
#: Set by the middleware; it follows a request into the threads that `sync_to_async` uses.
current_pinned: ContextVar[PinnedMasters | None] = ContextVar("current_pinned", default=None)


def is_write(statement: object) -> bool:
    """Tell whether a statement, or one of several in a string, may change the database.

    A statement that is not certainly a read counts as a write. One kind of write is missed: a
    function that is called in a SELECT may write, too, and nothing here can know that.
    """
    if not isinstance(statement, str):
        return True
    word = _first_word(statement)
    if word not in _READS:
        return True  # without looking further: a write may be long
    if ";" not in statement and not _is_any_in(statement.lower(), _READS[word]):
        return False  # nearly all reads end here
    code = _NO_CODE.sub(" ", statement)
    if _UNCLEAR.search(code) is not None:
        return True
    return any(_changes(each) for each in code.split(";") if each and not each.isspace())


def _first_word(statement: str) -> str | None:
    found = _FIRST_WORD.match(statement)
    return None if found is None else found[1].lower()


def _changes(statement: str) -> bool:
    """Tell whether a statement, stripped of strings and comments, may change the database."""
    word = _first_word(statement)
    if word not in _READS:
        return True
    changing, lowered = _READS[word], statement.lower()
    return _is_any_in(lowered, changing) and not changing.isdisjoint(_WORD.findall(lowered))


def _is_any_in(lowered: str, words: frozenset[str]) -> bool:
    """Tell whether a text contains one of the words, possibly as part of another word."""
    return any(word in lowered for word in words)


def note_write(alias: str) -> None:
    """Note that this request has written to a master, so that its reads go there, too."""
    _thread_writes.written.add(alias)
    pinned = current_pinned.get()
    if pinned is not None:
        pinned.written.add(alias)


def must_read_master(alias: str) -> bool:
    """Tell whether this request has to read from a master."""
    if alias in _thread_writes.written:
        return True
    pinned = current_pinned.get()
    return pinned is not None and (alias in pinned.written or alias in pinned.before)


def forget_writes() -> None:
    """Outside of a request, forget what was written: a task or a command has ended."""
    if not _thread_writes.in_request:
        _thread_writes.written.clear()


def _begin(**_: Any) -> None:
    _thread_writes.in_request = True
    _thread_writes.written.clear()
    current_pinned.set(None)


def _end(**_: Any) -> None:
    _thread_writes.in_request = False
    _thread_writes.written.clear()
    # A streaming response has kept the request pinned until now.
    current_pinned.set(None)


request_started.connect(_begin, dispatch_uid="hasql.contrib.django.begin")
request_finished.connect(_end, dispatch_uid="hasql.contrib.django.end")
