"""What a source of hosts fulfils."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from inspect import Parameter, signature
from typing import Any, TypeAlias

from hasql.cluster.discovered import Discovered

__all__ = ("Ask", "Discovery", "asks_by_sql")

Ask: TypeAlias = Callable[[str], Awaitable[list[dict[str, Any]]]]
"""Runs one query on a host that is known, and returns its rows.

A row maps the names of its columns to values as JSON has them: numbers, strings, booleans, None.
The query is a ``SELECT`` without a semicolon, and runs in a transaction of its own over a
connection that is reserved for such questions: of the master if one is known, else of any other
host. It raises what the driver raises, or NotAvailableError when no host answers in time.
"""


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


def asks_by_sql(source: Discovery) -> bool:
    """Tell whether a source's `watch` takes `ask`."""
    positional = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
    parameters = signature(source.watch).parameters.values()
    return any(x.kind in positional and x.default is Parameter.empty for x in parameters)
