"""Changes to what threads share, and calls that are put off until such a change is done."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from hasql.cluster.host import HostSpec
from hasql.diagnostics import about

__all__ = ("guarded", "log_soon", "soon")

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Guarding(Protocol):
    guard: AbstractContextManager[object]


_SelfT = TypeVar("_SelfT", bound=_Guarding)


def guarded(
    method: Callable[Concatenate[_SelfT, _P], _T],
) -> Callable[Concatenate[_SelfT, _P], _T]:
    """Make a method run in one step, under the `guard` of its object."""

    @wraps(method)
    def with_guard(self: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with self.guard:
            return method(self, *args, **kwargs)

    return with_guard


def soon(function: Callable[..., object], /, *args: object) -> None:
    """Call a function from the event loop once nothing is guarded: it may wait for other threads.

    Under the guard such a call could wait for ever: a log handler has a lock of its own, and the
    thread that holds that lock may be about to acquire a connection.
    """
    asyncio.get_running_loop().call_soon(function, *args)


def log_soon(
    log: Callable[..., None], text: str, host: HostSpec, event: str, *more: object
) -> None:
    """Log something about a host from the event loop, as `soon` does; the text begins with it."""
    soon(partial(log, text, host, *more, extra=about(event, host=host)))
