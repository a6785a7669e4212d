"""The contract that a source of hosts fulfils."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from inspect import Parameter, signature
from typing import Any, TypeAlias

from hasql.cluster.discovered import Discovered

__all__ = ("Ask", "Discovery", "asks_by_sql")

Ask: TypeAlias = Callable[[str], Awaitable[list[dict[str, Any]]]]
"""Runs one query on a known host, and returns its rows.

A row maps the names of its columns to values of JSON's types: numbers, strings, booleans, None.
The query is a ``SELECT`` without a semicolon. It runs in a transaction of its own, over a
connection that is reserved for such queries: to the master if one is known, else to any other
host. It raises what the driver raises, or NotAvailableError when no host answers in time.
"""


class Discovery(ABC):
    """A source of hosts, which may come and go while a manager runs. It serves one manager.

    A source only proposes hosts; probes decide which role each has. If a source fails, hangs,
    yields nothing or yields nonsense, the hosts known so far stay. Only a manager that knows no
    host yet waits for its source. `str()` of a source names it in logs, errors and metrics, so it
    must not contain a secret.
    """

    # A subclass writes `watch(self)`, or `watch(self, ask)` if it asks by SQL. For type checkers
    # both fulfil this signature, and no stricter signature would allow both.
    @abstractmethod
    def watch(self, *args: Any, **kwargs: Any) -> AsyncIterator[tuple[Discovered, ...]]:  # noqa: ANN401  # as said
        """Yield all hosts, and all hosts again after each change. Write it as ``watch(self)``.

        The iterator runs in a task of its own and may wait as long as it likes. If it raises, the
        error is logged, and `watch` is called again after a pause that doubles from 1 to 30
        seconds. If it ends, the hosts stay as they are for good. Yield the hosts in the order in
        which they should be considered; of several with the same address only the first counts. To
        say that the last answer still holds, yield it again.

        A source that asks the servers themselves writes ``watch(self, ask)``: `Ask` says how
        ``await ask(sql)`` works. The DSN must then name a host to begin with.
        """

    def refresh(self) -> None:  # noqa: B027  # most sources have nothing to do
        """Look for hosts again now, if the source can, because no master is known.

        This is called as soon as no master is known, and then each second until one is. It must
        not wait. While the manager pauses after a failure of `watch`, the pause ends and `watch` is
        called again instead.
        """

    def __str__(self) -> str:
        """Return the name of the class; a subclass may say more."""
        return type(self).__name__


def asks_by_sql(source: Discovery) -> bool:
    """Tell whether a source's `watch` takes `ask`."""
    positional = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
    parameters = signature(source.watch).parameters.values()
    return any(x.kind in positional and x.default is Parameter.empty for x in parameters)
