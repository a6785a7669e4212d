"""Credentials that an application makes for each login: tokens, or passwords that rotate."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Final

from hasql.cluster.redaction import redact
from hasql.driver.ended_within import ended_within
from hasql.driver.endpoint import Login
from hasql.driver.own_task import note_failure
from hasql.driver.threads import in_thread
from hasql.errors import ConfigurationError

__all__ = ("CredentialSource",)

#: Seconds that an answer may take, even if the connect that needs it may take longer.
_LONGEST_ANSWER: Final = 10.0
#: Seconds between two looks of a waiting thread at whether its connect has to end.
_LOOK: Final = 0.1
#: How many passwords are remembered, so that they can be hidden.
_PASSWORDS_KEPT: Final = 16


class CredentialSource:
    """Asks an application for the login of each new connection to a server.

    A coroutine function runs in the manager's event loop, and any other function in a thread,
    because it may wait for a service. If it fails, that connect fails.

    Args:
        ask: A function, or a coroutine function, that returns a password, or a user and a password.
    """

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self._is_async = iscoroutinefunction(ask) or iscoroutinefunction(
            getattr(ask, "__call__", None)  # noqa: B004  # whether that is a coroutine function
        )
        #: The manager's event loop, set by the first login in it: no pool connects before the
        #: monitor of its host has.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._given: deque[str] = deque(maxlen=_PASSWORDS_KEPT)

    async def login(self) -> Login:
        """Ask in the manager's event loop. Raises ConnectionError and ConfigurationError."""
        self._loop = asyncio.get_running_loop()
        # In a task of its own: what it waits for may have been cancelled by another task that asks,
        # and a library may leave the task that it runs in cancelled. This task may be a monitor's.
        asking = self._loop.create_task(self._answer())
        try:
            await asyncio.wait([asking], timeout=_LONGEST_ANSWER)
        finally:
            if not asking.done():
                asking.add_done_callback(note_failure)
                asking.cancel()
        if not asking.done():
            raise self._too_late()
        if asking.cancelled():
            raise self._failed(
                asyncio.CancelledError("something that it was waiting for was cancelled")
            )
        if (error := asking.exception()) is not None:
            raise self._failed(error) from error
        return self._read(asking.result())

    async def _answer(self) -> Any:
        if self._is_async:
            return await self._ask()
        given = await asyncio.wrap_future(in_thread(self._ask, "hasql credentials"))
        return await given if isawaitable(given) else given

    def login_in_thread(self, check: Callable[[], None]) -> Login:
        """Ask for the connect of a thread; `check` raises once that connect has to end."""
        assert self._loop is not None  # noqa: S101  # a monitor has connected before
        if self._is_async:
            asking: Future[Any] = asyncio.run_coroutine_threadsafe(self._answer(), self._loop)
        else:
            asking = in_thread(self._ask, "hasql credentials")
        given = self._wait(asking, check)
        if isawaitable(given):
            waiting = partial(_result_of, given)
            given = self._wait(asyncio.run_coroutine_threadsafe(waiting(), self._loop), check)
        return self._read(given)

    def _wait(self, asking: Future[Any], check: Callable[[], None]) -> Any:
        try:
            for _ in range(round(_LONGEST_ANSWER / _LOOK)):
                if ended_within(asking, _LOOK):
                    try:
                        return asking.result()
                    except Exception as error:
                        raise self._failed(error) from error
                check()
            raise self._too_late()
        finally:
            asking.cancel()

    def hide(self, text: str) -> str:
        """Return a text with `***` in place of the passwords that were given lately."""
        return redact(text, tuple(self._given), ())

    def _read(self, given: object) -> Login:
        user, password = given if isinstance(given, tuple) and len(given) == 2 else (None, given)  # noqa: PLR2004  # a pair
        if not (isinstance(password, str) and isinstance(user, str | None)):
            kinds = [
                type(each).__name__ for each in (given if isinstance(given, tuple) else [given])
            ]
            msg = (
                "credentials must return a password, or a user and a password, as str: not "
                f"{', '.join(kinds)}"
            )
            raise ConfigurationError(msg)
        if password and password not in self._given:
            self._given.append(password)
        return Login(user, password)

    def _failed(self, error: BaseException) -> ConnectionError:
        return ConnectionError(
            f"credentials= has raised {type(error).__name__}: {self.hide(str(error))}"
        )

    def _too_late(self) -> ConnectionError:
        return ConnectionError(f"credentials= has not returned within {_LONGEST_ANSWER:g} s")


async def _result_of(given: Any) -> Any:
    return await given
