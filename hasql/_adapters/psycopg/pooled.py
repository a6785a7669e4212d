"""The connections of a psycopg pool, which their pool's adapter opens and counts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from psycopg.pq import PGconn

from hasql._adapters.psycopg.connection import Watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("Pooled",)


class _Owner(Protocol):
    async def connect(self, connect: Callable[[], Awaitable[Watched]]) -> Watched | None:
        """Connect for the pool; None when it is closed."""

    def forget(self, connection: Watched) -> None:
        """Count a connection no more."""


class Pooled(Watched):
    """A connection of a pool; the adapter derives a class for each, of the user's class as well."""

    owner: ClassVar[_Owner]

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> Any:
        """Connect, as the owner has it."""
        connection = await cls.owner.connect(partial(super().connect, *args, **kwargs))
        # The pool is closing then: an error would be logged, but this is closed by it.
        return connection or cls(PGconn.connect_start(b"none="))

    async def close(self) -> None:
        """Close it, as psycopg does."""
        self.owner.forget(self)
        await super().close()
