"""Operations of SQLAlchemy that must not be cancelled while they wait for a server."""

import asyncio
import time

import pytest

from hasql._adapters.sqlalchemy.shielded import ShieldedOperations


async def test_work_whose_connection_is_aborted_before_its_task_has_begun_is_cancelled() -> None:
    """Its first step runs without the task; a task that never begins would drop the rest."""
    ended_by: list[type[BaseException]] = []

    async def hook() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except BaseException as error:
            ended_by.append(type(error))
            raise

    async def discard(_: object) -> None: ...

    operations = ShieldedOperations(discard)

    async def abort_in_a_long_turn_of_the_loop() -> None:
        operations.end("connection")
        time.sleep(0.2)  # as if the process got no processor for so long

    running = asyncio.create_task(operations.run(hook(), lambda _: None, "connection"))
    aborting = asyncio.create_task(abort_in_a_long_turn_of_the_loop())
    with pytest.raises(ConnectionError, match="gave up on the connection while an event"):
        await running
    await aborting
    del running
    assert ended_by == [asyncio.CancelledError]
