"""Opening a connection with settings: named at the login, set by SQL, or reported as missing.

Tasks and threads share the logic that decides: it is a generator that yields the next query.
"""

from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from hasql._adapters.reserved_session import is_about_settings
from hasql.driver.session_settings import ALL_MADE, SessionSettings, SettingsMade

__all__ = ("Setup", "WithSettings", "answered", "set_up")

_T = TypeVar("_T")


class WithSettings(NamedTuple, Generic[_T]):
    """A new connection, and which of its settings are in force."""

    connection: _T
    made: SettingsMade = ALL_MADE


class Setup(NamedTuple, Generic[_T]):
    """How the connections of one library are opened.

    Use `open` if `log_in` and `ask` are coroutine functions, and `open_in_thread` if they are not.
    """

    #: Logs in and names these settings to the server.
    log_in: Callable[[SessionSettings], Any]
    #: What `log_in` raises when a server refuses a login.
    refusals: type[Exception]
    #: Returns the process id that the server told at the login.
    pid: Callable[[_T], int]
    #: Runs a query on a new connection, and returns how many rows it has.
    ask: Callable[[_T, str], Any]
    #: Closes a connection on which a query of the setup has failed.
    discard: Callable[[_T], object]

    async def open(self, settings: SessionSettings) -> WithSettings[_T]:
        """Open a connection, in a task."""
        named, connection = settings, None
        while connection is None:
            try:
                connection = await self.log_in(named)
            except self.refusals as error:
                if not named or not is_about_settings(error):
                    raise
                named = named.before_refused(str(error))
        if not settings:
            return WithSettings(connection)
        try:
            steps = set_up(settings, self.pid(connection), taken=named is settings)
            made = await answered(steps, partial(self.ask, connection))
        except BaseException:
            self.discard(connection)
            raise
        return WithSettings(connection, made)

    def open_in_thread(self, settings: SessionSettings) -> WithSettings[_T]:
        """Open a connection, in a thread."""
        named, connection = settings, None
        while connection is None:
            try:
                connection = self.log_in(named)
            except self.refusals as error:
                if not named or not is_about_settings(error):
                    raise
                named = named.before_refused(str(error))
        if not settings:
            return WithSettings(connection)
        try:
            steps = set_up(settings, self.pid(connection), taken=named is settings)
            made = _answered_in_thread(steps, partial(self.ask, connection))
        except BaseException:
            self.discard(connection)
            raise
        return WithSettings(connection, made)


#: Yields the next query for a new connection, and is sent the number of its rows.
Steps: TypeAlias = Generator[str, int, SettingsMade]


def set_up(settings: SessionSettings, pid: int, *, taken: bool) -> Steps:
    """Return the steps that make the settings; `taken`: the login has already named them all."""
    if rows := (yield settings.question(pid)):
        return settings.made_behind_pooler(rows)
    if taken:
        return ALL_MADE
    yield settings.query()
    return SettingsMade(undone_by_reset=tuple(settings.parameters))


async def answered(steps: Steps, ask: Callable[[str], Awaitable[int]]) -> SettingsMade:
    """Run the queries of the steps, in a task, and return the result of the steps."""
    try:
        query = next(steps)
        while True:
            query = steps.send(await ask(query))
    except StopIteration as done:
        made: SettingsMade = done.value
        return made


def _answered_in_thread(steps: Steps, ask: Callable[[str], int]) -> SettingsMade:
    try:
        query = next(steps)
        while True:
            query = steps.send(ask(query))
    except StopIteration as done:
        made: SettingsMade = done.value
        return made
