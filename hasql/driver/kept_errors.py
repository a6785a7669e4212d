"""Errors that are kept: for metrics and messages, and for a caller that waits."""

from typing import TypeVar

__all__ = ("for_future", "without_frames")

_E = TypeVar("_E", bound=BaseException)


def for_future(error: BaseException) -> BaseException:
    """Return an error that a future accepts in place of the application's.

    A future of asyncio does not accept StopIteration. It becomes a RuntimeError, as in a coroutine
    that raises it.
    """
    if not isinstance(error, StopIteration):
        return error
    taken = RuntimeError("StopIteration was raised")
    taken.__cause__ = error
    return taken


def without_frames(error: _E) -> _E:
    """Remove the tracebacks from an error and from the errors that it came of; return it.

    A traceback keeps the frames that an error went through, and the objects in them. Those of a
    login that was given up hold the connection, which may be a session on the server by now.

    The error, and all that it came of, must have been raised in a task of hasql's own: if an
    application calls while it handles another error, the traceback of that one is its own.
    """
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            left += (each.__cause__, each.__context__)
            if isinstance(each, BaseExceptionGroup):
                left += each.exceptions
    return error
