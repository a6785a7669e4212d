"""How one host is reached: its DSN, and the addresses that its name leads to now."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from copy import copy
from dataclasses import replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from hasql.cluster.dsn import Dsn
from hasql.cluster.host import HostSpec
from hasql.cluster.names import plain_address
from hasql.driver.connects import leave_to_itself
from hasql.driver.failure import Failure
from hasql.driver.session_settings import NO_SETTINGS, SessionSettings

__all__ = ("Endpoint", "Login", "LoginSource")

_T = TypeVar("_T")

#: Seconds after which the next address of a name is tried beside the one that has not answered, as
#: RFC 8305 recommends: https://www.rfc-editor.org/rfc/rfc8305#section-8
#: That is for TCP alone. A whole login takes longer if the server is far away or busy, and two
#: logins for each connection would make it busier still. So the time doubles whenever the first
#: address was merely slow, up to the second of these.
_STAGGER, _LONGEST_STAGGER = 0.25, 1.0
#: Seconds that the first connect waits for the name to be looked up. Then the driver looks it up.
_FIRST_LOOKUP_TIMEOUT = 0.1


class _KnownAddresses:
    """What is known of where one name leads."""

    def __init__(self, address: str) -> None:
        #: The addresses to dial, in the order of the last answer. Empty: the driver resolves the
        #: name.
        self.addresses: tuple[str, ...] = (address,) if address else ()
        #: Pending while the name is looked up for the first time.
        self.first_lookup: asyncio.Future[None] | None = None
        #: Tells whether the name has left an address.
        self.has_left: Callable[[str], bool] = _never
        #: The address that connected last, which is tried first.
        self.last: str | None = None
        #: Seconds that a connect may take before the next address is tried beside it.
        self.stagger = _STAGGER


class Login(NamedTuple):
    """The login that an application has made for one connection."""

    #: None: the user of the DSN or of the arguments.
    user: str | None
    password: str

    def __repr__(self) -> str:
        return f"Login(user={self.user!r}, password='***')"


class LoginSource(Protocol):
    """The source of the login of each new connection."""

    async def login(self) -> Login:
        """Ask for a login, in the manager's event loop."""
        ...

    def login_in_thread(self, check: Callable[[], None]) -> Login:
        """Ask for a login, in a thread; `check` raises once the connect has to end."""
        ...


class Endpoint:
    """One host, as an adapter connects to it.

    Whatever follows the host's name reports its addresses here, with `note_addresses`.
    """

    def __init__(
        self,
        host: HostSpec,
        dsn: str,
        settings: SessionSettings = NO_SETTINGS,
        logins: LoginSource | None = None,
    ) -> None:
        self.host = host
        #: A URL of this host alone. It has the password: never show it.
        self.dsn = dsn
        #: The settings of each connection of a pool; reserved connections do not get them.
        self.settings = settings
        #: Asked for the login of each new connection. None: the DSN has it.
        self.logins = logins
        #: The login of one connection.
        self._login: Login | None = None
        self._known = _KnownAddresses(host.address)
        self._elsewhere = False

    def with_dsn(self, dsn: str) -> "Endpoint":
        """Return the same host with another DSN; both share what is known of the addresses."""
        other = copy(self)
        other.dsn = dsn
        return other

    # The login

    async def for_login(self) -> "Endpoint":
        """Return the same host with the login of one connection in its DSN; for a task.

        Raises what `LoginSource.login` does.
        """
        return self if self.logins is None else self.with_login(await self.logins.login())

    def for_login_in_thread(self, check: Callable[[], None]) -> "Endpoint":
        """Do the same for a thread; `check` raises once the connect has to end."""
        if self.logins is None:
            return self
        return self.with_login(self.logins.login_in_thread(check))

    def with_login(self, login: Login) -> "Endpoint":
        """Return the same host with this login in its DSN."""
        parsed = Dsn.parse(self.dsn)
        user = parsed.user if login.user is None else login.user
        named = replace(parsed, user=user, password=login.password)
        other = self.with_dsn(named.for_host(parsed.hosts[0]))
        other._login = login  # noqa: SLF001  # its own class
        return other

    def arguments(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of a connect without those that the login replaces."""
        if self._login is None:
            return kwargs
        said = {"password"} if self._login.user is None else {"password", "user"}
        return {name: value for name, value in kwargs.items() if name not in said}

    def elsewhere(self) -> "Endpoint":
        """Return the same host, beginning with another address than the one that connected last.

        The addresses take turns, so that each address of a name is looked at.
        """
        other = copy(self)
        other._elsewhere = True  # noqa: SLF001  # its own class
        return other

    # Where the name leads

    def begin_first_lookup(self) -> None:
        """Take note that the name is being looked up for the first time."""
        self._known.first_lookup = asyncio.get_running_loop().create_future()

    def end_first_lookup(self) -> None:
        """End the wait for the first answer: it is there, or there is none so far."""
        first = self._known.first_lookup
        self._known.first_lookup = None
        if first is not None and not first.done():
            first.set_result(None)

    async def await_first_lookup(self) -> None:
        """Wait a moment for the first answer, if there is none yet; no acquire calls this."""
        if (first := self._known.first_lookup) is not None:
            await asyncio.wait([first], timeout=_FIRST_LOOKUP_TIMEOUT)

    def note_addresses(self, addresses: tuple[str, ...], has_left: Callable[[str], bool]) -> bool:
        """Take note of the addresses to dial, and of what tells whether the name has left one.

        Return whether the name has left an address that was dialled until now.
        """
        before = self._known.addresses
        self._known.addresses, self._known.has_left = addresses, has_left
        return any(map(has_left, before))

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses to dial, in this order. Empty: the driver resolves the name."""
        addresses, last = self._known.addresses, self._known.last
        if len(addresses) <= 1 or last not in addresses:
            return addresses
        if self._elsewhere:
            addresses = tuple(sorted(addresses))
            after = addresses.index(last) + 1
            return addresses[after:] + addresses[:after]
        return (last, *(address for address in addresses if address != last))

    @property
    def last(self) -> str | None:
        """The address that connected last; None: none has."""
        return self._known.last

    def note_connected(self, address: str | None) -> None:
        """Make later connects try this address first, unless this is only a look elsewhere."""
        if not self._elsewhere:
            self._known.last = address

    @property
    def stagger(self) -> float:
        """Seconds that a connect may take before the next address is tried beside it."""
        return self._known.stagger

    def note_race(self, *, in_time: bool, others: bool) -> None:
        """Take note of how the first address did, and of whether others were being tried."""
        known = self._known
        if not in_time:
            known.stagger = _STAGGER
        elif others:
            known.stagger = min(2 * known.stagger, _LONGEST_STAGGER)

    def has_left(self, address: str | None) -> bool:
        """Tell whether the name no longer leads to the address that a connection was opened to."""
        return address is not None and self._known.has_left(address)

    def shows(self, address: str | None) -> bool:
        """Tell whether the last answer of the name has this address, or there is no answer."""
        shown = self._known.addresses
        return address is None or not shown or plain_address(address) in map(plain_address, shown)

    # Connecting

    async def connect(
        self,
        dial: Callable[[str | None], Coroutine[Any, Any, _T]],
        failure_of: Callable[[BaseException], Failure],
        discard: Callable[[_T], None],
    ) -> _T:
        """Connect to whichever address of the name answers.

        Args:
            dial: Connects to an address. None: to whatever the driver resolves the name to.
            failure_of: Returns what an error says about the server. The next address is tried if
                the server could not be reached or takes no more connections; anything else is
                raised at once.
            discard: Takes a connection that is not wanted: a second one, if two addresses have
                answered at once, or one to an address that the name has left meanwhile.
        """
        while addresses := self.addresses:
            address, connection = await self._first_of(addresses, dial, failure_of, discard)
            if not self.has_left(address):
                self.note_connected(address)
                return connection
            discard(connection)  # the name has moved meanwhile
        return await dial(None)

    async def _first_of(
        self,
        addresses: tuple[str, ...],
        dial: Callable[[str | None], Coroutine[Any, Any, _T]],
        failure_of: Callable[[BaseException], Failure],
        discard: Callable[[_T], None],
    ) -> tuple[str, _T]:
        if len(addresses) == 1:  # the usual case, and it needs no task
            return addresses[0], await dial(addresses[0])
        race = _Race(dial, failure_of, addresses, self.stagger)
        try:
            address, connection = await race.first()
        finally:
            race.leave_others(discard)
        self.note_race(in_time=address == addresses[0], others=race.has_others)
        return address, connection


def _never(_address: str, /) -> bool:
    return False


class _Race(Generic[_T]):
    """The attempts to connect to the addresses of one name, each a little after the one before."""

    def __init__(
        self,
        dial: Callable[[str], Coroutine[Any, Any, _T]],
        failure_of: Callable[[BaseException], Failure],
        addresses: tuple[str, ...],
        stagger: float,
    ) -> None:
        self._dial = dial
        self._stagger = stagger
        self._failure_of = failure_of
        self._addresses = iter(addresses)
        self._tasks: dict[asyncio.Task[_T], str] = {}

    async def first(self) -> tuple[str, _T]:
        """Return the first address to answer and the connection to it, which the caller owns."""
        error: BaseException | None = None
        full: BaseException | None = None
        while True:
            address = next(self._addresses, None)
            if address is not None:
                self._tasks[asyncio.create_task(self._dial(address))] = address
            elif not self._tasks:
                assert error is not None  # noqa: S101  # every attempt has failed
                raise full or error
            done, _ = await asyncio.wait(
                self._tasks,
                timeout=None if address is None and full is None else self._stagger,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done and address is None and full is not None:
                raise full  # it says more than the silence of the others
            for task in done:
                address = self._tasks.pop(task)
                if task.cancelled():
                    raise asyncio.CancelledError
                error = task.exception()
                if error is None:
                    return address, task.result()
                failure = self._failure_of(error)
                if failure is Failure.FULL:
                    full = error  # another address may have a place
                elif failure is not Failure.BROKEN:
                    raise error

    @property
    def has_others(self) -> bool:
        """Whether attempts besides the one that answered first are under way."""
        return bool(self._tasks)

    def leave_others(self, discard: Callable[[_T], None]) -> None:
        """Let no attempt outlast the race for long."""
        for task in self._tasks:
            leave_to_itself(task, discard)
