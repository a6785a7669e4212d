"""What a source of hosts fulfils."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, TypeAlias

from hasql.cluster.host import HostSpec, parse_host
from hasql.errors import ConfigurationError

__all__ = ("Ask", "Discovered", "Discovery")

Ask: TypeAlias = Callable[[str], Awaitable[list[dict[str, Any]]]]
"""Runs one query on a host that is known, and returns its rows.

A row maps the names of its columns to values as JSON has them: numbers, strings, booleans, None.
The query is a ``SELECT`` without a semicolon, and runs in a transaction of its own over a
connection that is reserved for such questions: of the master if one is known, else of any other
host. It raises what the driver raises, or NotAvailableError when no host answers in time.
"""


@dataclass(frozen=True, slots=True)
class Discovered:
    """A host that a source has found, and what the source says of it.

    Raises:
        ConfigurationError: The host cannot be one, or a number is out of its range.
        TypeError: A value of a wrong type.
    """

    host: HostSpec
    _: KW_ONLY
    never_master: bool = False
    """Whether it is never used as a master, whatever it answers."""
    never_replica: bool = False
    """Whether it is never used as a replica."""
    priority: int = 0
    """Hosts with the lowest are used first; the others while those are away or full."""
    weight: int = 1
    """Its share beside hosts of the same priority, for policies that obey it; 0: hardly any."""
    label: str | None = None
    """What its source calls it."""

    def __post_init__(self) -> None:
        """Check what a source says; a name is written in lower case, as in a DSN."""
        if not isinstance(self.host, HostSpec):
            raise TypeError(f"host must be a HostSpec, not {self.host!r}")
        try:  # a name with a comma, say, would be two hosts to a driver
            read = parse_host(str(HostSpec(self.host.host, self.host.port)))
        except (TypeError, ConfigurationError) as error:
            raise ConfigurationError(f"{self.host!r} cannot be a host: {error}") from None
        object.__setattr__(self, "host", replace(self.host, host=read.host, port=read.port))
        for flag in ("never_master", "never_replica"):
            if not isinstance(getattr(self, flag), bool):
                raise TypeError(f"{flag} must be True or False, not {getattr(self, flag)!r}")
        for number, least in (("priority", None), ("weight", 0)):
            value = getattr(self, number)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{number} must be an int, not {value!r}")
            if least is not None and value < least:
                raise ConfigurationError(f"{number} must be at least {least}, not {value}")
        if not isinstance(self.label, str | None):
            raise TypeError(f"label must be a str or None, not {self.label!r}")


class Discovery(ABC):
    """A source of hosts, which may come and go while a manager runs. It serves one manager.

    A source only proposes hosts; probes decide what they are. Whatever it does (fails, hangs,
    answers nothing, answers nonsense), the hosts known so far stay, and nobody waits for it but a
    manager that knows no host yet. `str()` of a source names it in logs, errors and metrics; a
    secret has no place there.
    """

    # A subclass writes `watch(self)`, or `watch(self, ask)` if it asks by SQL. To type checkers
    # both fulfil this signature, and no other would have it so.
    @abstractmethod
    def watch(self, *args: Any, **kwargs: Any) -> AsyncIterator[tuple[Discovered, ...]]:  # noqa: ANN401  # as said
        """Yield all hosts, and all hosts again after each change. Write it as ``watch(self)``.

        It is iterated in a task of its own and may wait as long as it likes. If it raises, that is
        logged, and it is called again after a pause that doubles from 1 to 30 seconds; if it ends,
        the hosts stay as they are for good. The hosts are in the order in which they are to be
        looked at; of several with one address the first counts. To say that the last answer still
        holds, yield it again.

        A source that asks the servers themselves writes ``watch(self, ask)``: `Ask` says how
        ``await ask(sql)`` works. The DSN then has to name a host to begin with.
        """

    def refresh(self) -> None:  # noqa: B027  # most sources have nothing to do
        """Look again now, where that is possible: no master is known.

        Called at once when that begins and each second while it lasts; it must not wait. While
        `watch` pauses after a failure, it is called anew in place of this.
        """

    def __str__(self) -> str:
        """Return the name of the class; a source of one's own may say more."""
        return type(self).__name__
