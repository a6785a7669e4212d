"""Four times as many requests as a server can do, in laps that take turns: a part of load_control.

The overload is one of connections, not of this machine's processors, which client and server share:
the work is a function on the server that sleeps. Ten calls at once take 50 ms each; more calls
share that capacity and also slow each other down, like processes of a database. So the best rate is
known, about 200 a second, and it is measured as well: by ten tasks that make one call after the
other.

Requests arrive at random at a fixed rate; each has half a second, and some are critical. A request
is good if its work is done in that time. In the part "unloaded" only critical requests arrive, as
many as in the overload. The adaptive limit starts in the first lap, so the figures include the time
that it takes to learn. Only work within the lap counts, not what fills the queue before the lap or
empties it afterwards.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from hasql.asyncpg import PoolManager
from hasql.errors import NotAvailableError
from hasql.resilience import Admission, Priority, priority
from hasql.testing import LocalCluster

__all__ = ("overload",)

#: How many calls at once the server does well, and the seconds that they take.
_AT_ONCE, _SERVICE = 10, 0.05
_TIMES, _CRITICAL_SHARE, _DEADLINE = 4.0, 0.05, 0.5
#: The seconds of a lap, and the seconds before it during which requests already arrive.
_SECONDS, _AHEAD = 2.0, 0.5

_WORK = "SELECT work()"
_WORK_IS = f"""
CREATE FUNCTION work() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    more float := greatest(0, 1 - {_AT_ONCE} + (
        SELECT count(*) FROM pg_stat_get_activity(NULL) WHERE wait_event = 'PgSleep'));
BEGIN
    PERFORM pg_sleep({_SERVICE} * (1 + more / {_AT_ONCE}) * (1 + 0.03 * more));
END $$
"""  # noqa: S608  # constants of this module

#: As many permits as the server does well, and a fifth more for critical requests.
_FIXED = Admission(12, queue=20, reserve=0.2)
_MANAGERS: dict[str, dict[str, Any]] = {
    "fixed": {"admission": _FIXED},
    "adaptive": {"admission": Admission(100, queue=20, adaptive=True)},
    "without": {},
}
#: The manager, the rate of arrival in multiples of the best rate (None: ten tasks instead), and the
#: share of critical requests.
_PARTS: dict[str, tuple[str, float | None, float]] = {
    "unloaded": ("fixed", _TIMES * _CRITICAL_SHARE, 1.0),
    "best": ("fixed", None, 0.0),
    "4x, admission": ("fixed", _TIMES, _CRITICAL_SHARE),
    "4x, adaptive": ("adaptive", _TIMES, _CRITICAL_SHARE),
    "4x, without admission": ("without", _TIMES, _CRITICAL_SHARE),
}


@dataclass
class Part:
    """The outcomes of the requests in all laps of a part."""

    #: The good requests per second, by lap.
    good: list[float] = field(default_factory=list)
    #: The seconds that each critical request took.
    critical: list[float] = field(default_factory=list)
    #: The most by which a request has waited beyond its deadline for a connection or a refusal.
    latest: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)

    def report(self, best: "Part") -> dict[str, Any]:
        """Return the figures; shares are relative to `best` in the same rounds."""
        critical = self.critical
        return {
            "good_a_second": median(self.good),
            "share_of_best": median(a / b for a, b in zip(self.good, best.good, strict=True)),
            "critical_p99_ms": quantiles(critical, n=100)[98] * 1e3 if len(critical) > 1 else None,
            "latest_ms": self.latest * 1e3,
            "outcomes": dict(self.outcomes),
        }


class Laps:
    """The laps of a part, on its manager."""

    def __init__(
        self, manager: PoolManager, rate: float | None, critical_share: float, seed: int
    ) -> None:
        self._manager = manager
        self._rate = rate
        self._critical_share = critical_share
        self._chance = random.Random(seed)  # noqa: S311  # no secret
        self.part = Part()
        self._good = 0
        self._from = self._until = 0.0

    async def run(self) -> None:
        """Run one lap."""
        self._good = 0
        began = perf_counter()
        self._from, self._until = began + _AHEAD, began + _AHEAD + _SECONDS
        if self._rate is None:
            await asyncio.gather(*(self._one_after_the_other() for _ in range(_AT_ONCE)))
        else:
            await self._arrive(self._rate)
        self.part.good.append(self._good / _SECONDS)

    async def _one_after_the_other(self) -> None:
        while perf_counter() < self._until:
            await self._request(Priority.NORMAL)

    async def _arrive(self, rate: float) -> None:
        tasks, due = [], perf_counter()
        while due < self._until:
            await asyncio.sleep(max(0.0, due - perf_counter()))
            critical = self._chance.random() < self._critical_share
            level = Priority.CRITICAL if critical else Priority.NORMAL
            tasks.append(asyncio.create_task(self._request(level)))
            due += self._chance.expovariate(rate)
        await asyncio.gather(*tasks)

    async def _request(self, level: Priority) -> None:
        part = self.part
        began = perf_counter()
        try:
            with priority(level):
                async with self._manager.acquire_master(timeout=_DEADLINE) as connection:
                    waited = perf_counter() - began
                    await connection.fetchval(_WORK)
        except NotAvailableError as error:
            waited = perf_counter() - began
            part.outcomes[type(error).__name__] += 1
        else:
            ended = perf_counter()
            good = ended - began <= _DEADLINE
            part.outcomes["done" if good else "done late"] += 1
            self._good += good and self._from <= ended < self._until
            if level is Priority.CRITICAL:
                part.critical.append(ended - began)
        part.latest = max(part.latest, waited - _DEADLINE)


@asynccontextmanager
async def _managers(cluster: LocalCluster) -> AsyncIterator[dict[str, PoolManager]]:
    async with AsyncExitStack() as stack:
        managers = {}
        for name, kwargs in _MANAGERS.items():
            managers[name] = await stack.enter_async_context(
                PoolManager(
                    cluster.dsn, pool_factory_kwargs={"min_size": 25, "max_size": 25}, **kwargs
                )
            )
            await managers[name].ready()
        yield managers


async def overload(cluster: LocalCluster, rounds: int) -> dict[str, Any]:
    """Measure, print, and return the figures by part."""
    await cluster.master.sql(_WORK_IS)
    async with _managers(cluster) as managers:
        laps = {
            name: Laps(managers[of], times and times * _AT_ONCE / _SERVICE, share, seed)
            for seed, (name, (of, times, share)) in enumerate(_PARTS.items())
        }
        for number in range(rounds):
            for name in sorted(laps, reverse=number % 2 > 0):
                await laps[name].run()
        adaptive = managers["adaptive"].metrics().admission
    parts = {name: each.part.report(laps["best"].part) for name, each in laps.items()}
    unloaded = parts["unloaded"]["critical_p99_ms"]
    for name, part in parts.items():
        p99 = part["critical_p99_ms"]
        critical = "" if p99 is None else f", critical p99 {p99:.0f} ms, {p99 / unloaded:.2f} times"
        print(
            f"  {name:22} {part['good_a_second']:5.0f} a second in time, "
            f"{part['share_of_best']:.0%} of the best{critical}; "
            f"latest {part['latest_ms']:.1f} ms; {part['outcomes']}",
            flush=True,
        )
    print(f"  the limit that adapts ended at {adaptive.limit if adaptive else None}")
    return parts
