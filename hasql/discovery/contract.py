"""What a source of hosts fulfils."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from hasql.cluster.host import HostSpec

__all__ = ("Discovery",)


class Discovery(ABC):
    """A source of hosts, which may come and go while a manager runs.

    A source only proposes hosts; probes decide what they are. Whatever it does (fails, hangs,
    answers nothing, answers nonsense), the hosts known so far stay, and nobody waits for it.
    """

    @abstractmethod
    def watch(self) -> AsyncIterator[tuple[HostSpec, ...]]:
        """Yield all hosts, and all hosts again after each change.

        It is iterated in a task of its own and may wait as long as it likes. If it raises it is
        logged, and called again after a pause that doubles from 1 to 30 seconds; if it ends, the
        hosts stay as they are for good.
        """

    def refresh(self) -> None:  # noqa: B027  # most sources have nothing to do
        """Look again now, where that is possible: no master is known.

        Called at once when that begins and each second while it lasts; it must not wait.
        """
