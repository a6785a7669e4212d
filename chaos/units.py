"""An application whose every operation is a unit of work: it uses only `run`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from chaos.application import LONGEST, Acknowledged, Application, Read
from hasql.resilience import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("UnitsOfWork",)

_UNKNOWN = "CommitUnknownError:"
"""The only error that a fault may cause: no server could tell the outcome of a commit."""


class UnitsOfWork(Application):
    """Each unit of work writes a row; done twice, it would violate the table's key."""

    uses = "run"

    # All statements differ, so that a cache of prepared ones would grow for some time.
    prepares = False

    # An attempt that is running when the time budget ends is not interrupted.
    longest = RetryPolicy().seconds + LONGEST

    async def _write(self, client: int, number: int) -> None:
        values = f"VALUES ({client}, {number}) RETURNING 1"
        statement = f"INSERT INTO {self.table} {values}"

        async def write(connection: Any) -> None:  # noqa: ANN401 - each driver's
            await self.kit.value(connection, statement)

        await self.manager.run(write)
        self.acknowledged.append(Acknowledged(client, number, time.monotonic()))

    async def _read(self, client: int, number: int) -> None:
        del client, number
        asked = time.monotonic()

        async def read(connection: Any) -> tuple[str, float]:  # noqa: ANN401 - as above
            answer: str = await self.kit.value(
                connection, "SELECT concat(inet_server_port(), ' ', pg_is_in_recovery())"
            )
            return answer, time.monotonic()

        answer, at = await self.manager.run(read, read_only=True)
        port, _, in_recovery = answer.partition(" ")
        self.reads.append(Read(int(port), in_recovery == "t", asked, at))

    def unforgiven(self) -> Iterator[str]:
        """Yield all errors except that one: each of these faults ends within the time of a run."""
        for each in self.operations:
            if each.error is not None and not each.error.startswith(_UNKNOWN):
                yield (
                    f"{each.task} has seen an error: {each.error}, after "
                    f"{each.ended - each.began:.1f} s, {each.starved:.1f} s of them without a "
                    "processor"
                )
