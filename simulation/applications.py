"""Applications: tasks that acquire, work, give back and are cancelled, and check their leases."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from hasql.errors import NotAvailableError, PoolManagerClosedError
from testbed.fake_driver import ServerError

if TYPE_CHECKING:
    from random import Random

    from simulation.cluster import Cluster
    from simulation.connections import Connection, Disturbance
    from simulation.driver import SimulatedManager
    from simulation.record import Record
    from simulation.servers import Server

__all__ = ("Task", "Writer")

#: Seconds after which a host that serves undisturbed must be in use.
_BOUND = 3.0
#: Seconds after which a host that does not answer a probe must be known as silent, so that others
#: are preferred: ten of the slowest round trips here, and some more.
_NOTICED = 0.3
#: Seconds that an application waits for a statement.
_PATIENCE = 3.0
#: Seconds of an acquire that must not all be spent on one silent host.
_LONG, _LONGER = 0.8, 1.5
#: Seconds to allow for rounding.
_ROUNDING = 1e-6
#: Kinds of acquires.
_KINDS = ("master", "replica", "replica or master", "share")


class Task:
    """A task of an application, which uses one connection after the other."""

    #: The share of its uses in which it keeps a connection for a while.
    holds = 0.3

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        name: str,
        manager: SimulatedManager,
        cluster: Cluster,
        record: Record,
        chance: Random,
        *,
        roomy: bool,
        crowd: list[asyncio.Task[None]],
    ) -> None:
        self.name = name
        self.manager = manager
        self.cluster = cluster
        self.record = record
        self.chance = chance
        #: Whether each host has connections for all tasks, so that no task waits for another.
        self.roomy = roomy
        #: Uses, by any task of the manager, that may be cancelled when a connection is given back.
        self.crowd = crowd
        self.knowledge = manager.driver.knowledge
        self.stopped = False
        #: The disturbances that have cost this task an error; each may do so only once.
        self._excused: set[Disturbance] = set()
        #: Whether to try again at once, as many applications do after an error.
        self._hurries = False
        self.done = 0
        self.failed = 0

    def __str__(self) -> str:
        return self.name

    async def run(self) -> None:
        try:
            while not self.stopped and not self.record.violations:
                if not self._hurries:
                    await asyncio.sleep(self.chance.expovariate(4.0))
                self._hurries = False
                kind = self.chance.choice(_KINDS)
                if self.chance.random() < 0.3:
                    await self._use_and_be_cancelled(kind)
                else:
                    await self.use(kind)
        except PoolManagerClosedError:
            if not self.manager.closing:
                self.record.violated(self, "was told that the manager is closed, and it is not")

    async def _use_and_be_cancelled(self, kind: str) -> None:
        task = asyncio.get_running_loop().create_task(self.use(kind))
        style = self.chance.random()
        if style < 0.3:  # just when it gets a connection, see `cancel_who_waits`
            self.crowd.append(task)
            await asyncio.wait([task], timeout=3.0)
            self.crowd.remove(task)
        elif style < 0.7:
            for _ in range(self.chance.randrange(12)):  # turns of the loop; no time passes
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self.chance.expovariate(50.0))
        insists = self.chance.random() < 0.3  # as cancel scopes of anyio do
        task.cancel()
        turns = 0
        while insists and not task.done() and turns < 50:
            await asyncio.sleep(0)
            task.cancel()
            turns += 1
        with suppress(asyncio.CancelledError):
            await task

    def cancel_who_waits(self) -> None:
        """Cancel a use that may get, at this moment, the connection that this task gives back."""
        if self.crowd and self.chance.random() < 0.3:
            self.crowd[0].cancel()

    async def use(self, kind: str) -> None:
        """Acquire a connection, work with it and give it back."""
        acquire = _Acquire(self, kind)
        try:
            async with acquire as connection:
                await self._work(connection, write=kind == "master")
        except NotAvailableError:
            self.record.note(self, f"has got no {kind}")
            self.failed += 1
        except (ConnectionError, ServerError) as error:
            how = "and calls release" if acquire.awaited else "in a block"
            self.record.note(self, f"has an error, {how}: {error!r}")
            self.failed += 1
            self._check_error(acquire.connection, error, released=acquire.awaited)
            self._hurries = self.chance.random() < 0.7
        except TimeoutError:
            self.record.note(self, "has lost its patience")
            self.failed += 1
            if not (self.cluster.may_deafen or acquire.connection.server.was_silent):
                self.record.violated(self, f"waits for {acquire.connection.server} in vain")

    async def _work(self, connection: Connection, *, write: bool) -> None:
        hold = self.chance.expovariate(10.0) if self.chance.random() < self.holds else 0.0
        for number in range(self.chance.choice([1, 1, 1, 2, 3])):
            if number and hold:
                await asyncio.sleep(hold)
            async with asyncio.timeout(_PATIENCE):
                await connection.execute(write=write)
        self.done += 1
        self.record.note(self, f"{'writes' if write else 'reads'} on {connection.server}")
        if write:
            self.wrote(connection.server)

    def wrote(self, server: Server) -> None:
        """Note a write that was acknowledged."""

    # What must hold

    def check_lease(self, connection: Connection, kind: str) -> None:
        """Check a connection at the moment when it is handed out."""
        server = connection.server
        if connection.closed:
            self.record.violated(self, f"was given a closed connection to {server}")
        if connection.holder is not None:
            self.record.violated(self, f"was given what {connection.holder} has, on {server}")
        if kind == "master" and self.knowledge.is_standby(server):
            self.record.violated(self, f"was given {server} as a master, a known standby")
        if kind != "replica" and self.knowledge.replaced(server):
            self.record.violated(self, f"was given {server} as a master, which was replaced")
        if kind == "replica" and connection.in_hot_standby is False:
            self.record.violated(self, f"was given {server} as a replica, which says it is none")
        if self.knowledge.is_of_before(connection):
            self.record.violated(self, f"was given a connection to {server} from before its end")
        if kind == "replica" and self._is_known_silent(server) and self._another_serves(server):
            self.record.violated(self, f"was given {server}, which is silent, and others are not")
        names = self.manager.names
        if names is not None and names.is_stale(connection, self.cluster.stalled_at):
            self.record.violated(self, f"was given {connection.address}, which {server} has left")
        connection.holder = self
        connection.writes = kind == "master"

    def _is_known_silent(self, server: Server) -> bool:
        asked = self.knowledge.unanswered.get(server.host)
        return (
            server.frozen
            and asked is not None
            and asked > self.cluster.stalled_at
            and self.record.clock.now - asked > _NOTICED
        )

    def _another_serves(self, server: Server) -> bool:
        return self.roomy and any(
            other.serves and not other.master and self.record.clock.now - other.calm_since > 1.6
            for other in self.cluster.all
            if other is not server
        )

    def check_waited(self, kind: str, waited: float) -> None:
        """Check that an acquire that has waited for `waited` seconds could not have been served."""
        # A connection to a new master is asked whether it can write. It may not answer, nor may the
        # next one; an acquire that can be served elsewhere then takes that much longer. It also
        # takes longer if a replica without a reserved connection goes silent, which is known only
        # after `refresh_timeout`.
        elsewhere = kind in {"share", "replica or master"}
        if not self.roomy or waited < (_LONGER if elsewhere else _LONG):
            return
        since = self.cluster.replica_serves_since()
        if kind == "master" or (kind == "replica or master" and since is None):
            since = self.cluster.master_serves_since()
        if since is not None and self.record.clock.now - since > _BOUND:
            what = f"has waited {waited} s for a {kind}, and one serves since {since:.6f}"
            self.record.violated(self, what)

    def _check_error(self, connection: Connection, error: Exception, *, released: bool) -> None:
        """Check that an error was unavoidable: each disturbance may cost a task only one."""
        why = connection.ended_by
        if isinstance(error, ServerError):
            self.record.violated(self, f"was refused a write: {connection.server} is a standby")
        elif why is None:
            if not (connection.was_to_be_ended or self.manager.closing):
                self.record.violated(self, f"has lost a lease on {connection.server} to hasql")
        elif why in self._excused:
            self.record.violated(self, f"has paid twice for: {why.what}")
        elif not released:
            # After a `release`, hasql has not heard of the error, so it cannot withhold the other
            # connections that were lost at the same time.
            self._excused.add(why)


class _Acquire:
    """An acquire in any of the ways to ask and to give back; checks what comes of it."""

    connection: Connection

    def __init__(self, task: Task, kind: str) -> None:
        self._task = task
        self._kind = kind
        self._timeout = timeout = task.chance.choice([0.05, 0.3, 0.8, 2.5])
        self.awaited = task.chance.random() < 0.5
        manager = task.manager
        if kind == "master":
            self._lease = manager.acquire_master(timeout=timeout)
        elif kind == "share":
            self._lease = manager.acquire_replica(master_as_replica_weight=0.5, timeout=timeout)
        else:
            fallback = kind == "replica or master"
            self._lease = manager.acquire_replica(fallback_master=fallback, timeout=timeout)

    async def __aenter__(self) -> Connection:
        task, clock = self._task, self._task.record.clock
        began, stalled = clock.now, clock.stalled
        try:
            connection = await (self._lease if self.awaited else self._lease.__aenter__())
        except NotAvailableError:
            if clock.now - began < self._timeout - _ROUNDING:
                task.record.violated(task, "was told before the deadline that there is nothing")
            raise
        finally:
            waited = clock.now - began - (clock.stalled - stalled)
            if waited > self._timeout + _ROUNDING:
                task.record.violated(task, f"has waited {waited} s, and had {self._timeout}")
            task.check_waited(self._kind, waited + _ROUNDING)
        self.connection = connection
        task.check_lease(connection, self._kind)
        return connection

    async def __aexit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._task.cancel_who_waits()
        try:
            if self.awaited:
                await self._task.manager.release(self.connection)
            else:
                # The end of a block may be a COMMIT, which is a statement of the task like others.
                async with asyncio.timeout(_PATIENCE):
                    await self._lease.__aexit__(type(error) if error else None, error, None)
        finally:
            self.connection.holder = None
            self._task.cancel_who_waits()


class Writer(Task):
    """A task that only writes, so that it shows how long writing was impossible."""

    holds = 0.0
    wrote_at = 0.0
    #: The longest time for which there was an undisturbed master, but nothing was written.
    longest = 0.0

    async def run(self) -> None:
        with suppress(PoolManagerClosedError):
            while not self.stopped and not self.record.violations:
                await asyncio.sleep(0.1)
                await self.use("master")

    def wrote(self, server: Server) -> None:
        if server is not self.cluster.master:
            return
        since = self.cluster.master_serves_since()
        now = self.record.clock.now
        if since is not None:
            waited, bound = now - max(since, self.wrote_at), self.cluster.bound
            self.longest = max(self.longest, waited)
            if self.roomy and waited > bound:
                self.record.violated(self, f"could not write, and a master serves since {since}")
        self.wrote_at = now
