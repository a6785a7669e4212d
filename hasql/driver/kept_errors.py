"""What is kept of an error: for metrics and messages, and for who waits."""

from typing import TypeVar

__all__ = ("for_future", "without_frames")

_E = TypeVar("_E", bound=BaseException)


def for_future(error: BaseException) -> BaseException:
    """Return what a future takes for an error of the application's.

    asyncio's take no StopIteration: it becomes a RuntimeError, as in a coroutine that raises it.
    """
    if not isinstance(error, StopIteration):
        return error
    taken = RuntimeError("StopIteration was raised")
    taken.__cause__ = error
    return taken


def without_frames(error: _E) -> _E:
    """Take the tracebacks off an error and those that it came of; return it.

    A traceback keeps the frames that an error went through, and what these have in hand: of a login
    that was given up the connection, which may be a session of the server's by now.

    The error, and all that it came of, must have been raised in a task of hasql's own: an
    application may be handling another error when it calls, whose traceback is its own.
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
