"""The workload: writers and readers that use a pool manager as an application would."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

from hasql._manager.introspection import Introspection
from hasql.cli.report import Acknowledged, FailedOperation
from hasql.tracing import AcquireRetried, AcquireWaited, Tracer

__all__ = ("GRACE", "PAUSE", "TABLE", "TIMEOUT", "Statements", "Workload")

TABLE = "hasql_demo"

PAUSE: Final = 0.002
"""Seconds that a worker rests between two operations: two cores also run three servers."""

TIMEOUT: Final = 5.0
"""Seconds after which an operation that does not end is counted as hanging."""

GRACE: Final = 0.2
"""Seconds that an abort waits for running operations to end."""


class Statements:
    """The SQL statements; `first` and `second` are the driver's placeholders for parameters."""

    create = f"CREATE TABLE {TABLE} (client int, sequence int, PRIMARY KEY (client, sequence))"

    def __init__(self, first: str, second: str) -> None:
        self.insert = (
            f"INSERT INTO {TABLE} VALUES ({first}, {second}) "  # noqa: S608 - a constant
            "RETURNING host(inet_server_addr())"
        )
        self.select = f"SELECT max(sequence) FROM {TABLE} WHERE client = {first}"  # noqa: S608 - a constant


class Workload(ABC):
    """Runs until it is stopped, and records every operation. Times are monotonic seconds.

    Use it in ``async with``, which closes the pool manager at the end.
    """

    def __init__(self, pool: Introspection[Any, Any]) -> None:
        #: The pool manager, for tasks or for threads.
        self.pool = pool
        self._stopping = False
        self.acknowledged: list[Acknowledged] = []
        #: When each read began and ended.
        self.reads: list[tuple[float, float]] = []
        self.failed: list[FailedOperation] = []
        self.hung = 0
        #: The acquires that had to wait, and the attempts of acquires that failed.
        self.waits: list[AcquireWaited] = []
        self.retries: list[AcquireRetried] = []
        self.began = self.ended = monotonic()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @abstractmethod
    async def ready(self, seconds: float = 10.0) -> None:
        """Wait until one master and two replicas serve.

        Raises NotAvailableError if they do not serve within `seconds`.
        """

    @abstractmethod
    async def prepare(self) -> None:
        """Create the table that the workers write and read."""

    @abstractmethod
    async def close(self) -> None:
        """Close the pool manager."""

    def start(self, writers: int, readers: int) -> None:
        """Start the workers."""
        self.pool.set_tracer(
            Tracer(acquire_waited=self.waits.append, acquire_retried=self.retries.append)
        )
        self.began = monotonic()
        for client in range(1, writers + 1):
            self._start(f"writer {client}", self._write, client)
        for client in range(1, readers + 1):
            self._start(f"reader {client}", self._read, client)

    async def stop(self) -> None:
        """Wait until each worker has ended its operation.

        Workers that do not end within 5 s are counted as hanging, and ended.
        """
        self._stopping = True
        self.hung = await self._wait(TIMEOUT)
        self.ended = monotonic()
        await self.abort()

    @abstractmethod
    async def abort(self) -> None:
        """End all workers, after a short wait for operations that end by themselves."""

    @abstractmethod
    def _start(self, name: str, operation: Callable[[int, int], Any], client: int) -> None:
        """Start a worker that repeats an operation.

        The operation takes the client's number, and the number of the repetition.
        """

    @abstractmethod
    def _write(self, client: int, number: int) -> object:
        """Write a row, and record it once it is acknowledged."""

    @abstractmethod
    def _read(self, client: int, number: int) -> object:
        """Read a row."""

    @abstractmethod
    async def _wait(self, seconds: float) -> int:
        """Wait up to `seconds` for the workers to end; return how many have not ended."""

    def _note_failure(self, name: str, error: Exception, began: float) -> None:
        text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        self.failed.append(FailedOperation(name, text, began, monotonic()))
