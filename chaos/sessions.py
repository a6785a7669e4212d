"""An application of SQLAlchemy sessions that route themselves; no update may be lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Column, Integer, Table, insert
from sqlalchemy.orm import registry

from chaos.application import Acknowledged
from chaos.units import UnitsOfWork
from hasql.asyncsqlalchemy import async_sessionmaker
from hasql.sync.sqlalchemy import sessionmaker
from testbed.kits.in_threads import ManagerOfThreads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from hasql.testing import LocalCluster
    from testbed.kits.base import LoadKit

__all__ = ("RoutedSessions",)


class RoutedSessions(UnitsOfWork):
    """Each writer counts its rows, starting from the count that a replica shows."""

    uses = "sessions"

    def __init__(self, kit: LoadKit, cluster: LocalCluster, *args: Any) -> None:  # noqa: ANN401 - same signature
        super().__init__(kit, cluster, *args)
        self._cluster = cluster
        mapped = registry()
        self._rows = Table(self.table, mapped.metadata, *map(_number, ("client", "number")))
        id_, count = Column("id", Integer, primary_key=True), _number("v")
        counts = Table(f"{self.table}_count", mapped.metadata, id_, count)
        self._count: Any = type("Count", (), {})
        mapped.map_imperatively(self._count, counts)
        self._miscounted = ""
        in_threads = isinstance(self.manager, ManagerOfThreads)
        self._sessions = sessionmaker(self.manager.manager, route="auto") if in_threads else None
        self._task_sessions = None if in_threads else async_sessionmaker(self.manager, route="auto")

    async def __aenter__(self) -> Self:
        await self._cluster.master.sql(
            f"CREATE TABLE {self.table}_count (id int PRIMARY KEY, v int NOT NULL);"
            f"GRANT ALL ON {self.table}_count TO app"
        )
        return await super().__aenter__()

    async def _write(self, client: int, number: int) -> None:
        statement = insert(self._rows).values(client=client, number=number)

        def count_one(session: Session) -> None:
            found = session.get(self._count, client)
            if found is None:
                found = self._count(id=client, v=0)
                session.add(found)
            found.v += 1
            session.execute(statement)

        async def count(session: AsyncSession) -> None:
            await session.run_sync(count_one)

        if self._sessions is not None:
            self._sessions.run(count_one)
        elif self._task_sessions is not None:
            await self._task_sessions.run(count)
        self.acknowledged.append(Acknowledged(client, number, time.monotonic()))

    async def rows(self) -> set[tuple[int, int]]:
        """Return the rows on the master, and check that as many were counted."""
        rows = await super().rows()
        counted = int(
            await self._cluster.master.sql(f"SELECT coalesce(sum(v), 0) FROM {self.table}_count")  # noqa: S608 - ours
        )
        if counted != len(rows):
            self._miscounted = f"{len(rows)} rows were counted as {counted}: an update was lost"
        return rows

    def unforgiven(self) -> Iterator[str]:
        """Yield all errors except the allowed one, and updates that were lost without an error."""
        yield from super().unforgiven()
        if self._miscounted:
            yield self._miscounted


def _number(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)
