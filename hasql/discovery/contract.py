"""What a source of hosts fulfils."""

from collections.abc import AsyncIterator
from typing import Protocol

from hasql.cluster.dsn import HostSpec

__all__ = ("Discovery",)


class Discovery(Protocol):
    """A source of hosts, which may come and go while a manager runs."""

    def watch(self) -> AsyncIterator[tuple[HostSpec, ...]]:
        """Yield all hosts at once, then all hosts again after each change.

        It is iterated in a task of its own and may wait and fail as it likes: hosts once yielded
        stay until others are yielded.
        """
        ...
