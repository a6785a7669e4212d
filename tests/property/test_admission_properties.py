"""The admission gate against a model: it is fair, keeps its limit and forgets no acquire."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hasql._routing.waiters import ThreadWaiters
from hasql.errors import OverloadedError, PoolManagerClosedError
from hasql.resilience.admission_gate import AdmissionGate, QueuedAcquire
from hasql.resilience.priority import Priority

if TYPE_CHECKING:
    from hasql.driver.thread_waiter import ThreadWaiter


@dataclass(eq=False)
class Asker:
    """A waiting acquire: what the model knows of it, and its place at the gate."""

    priority: Priority
    half_at: float
    acquire: QueuedAcquire
    waiter: ThreadWaiter[None]


class GateMachine(RuleBasedStateMachine):
    """Acquires that enter, wait, give up and end while time goes on."""

    @initialize(
        limit=st.integers(1, 12),
        queue=st.integers(0, 8),
        reserve=st.sampled_from([0.0, 0.1, 0.29, 0.5]),
    )
    def begin(self, limit: int, queue: int, reserve: float) -> None:
        self.now = 0.0
        self.limit, self.queue = limit, queue
        self.open_limit = limit - floor(round(limit * reserve, 6))
        self.gate = AdmissionGate(
            limit, queue, reserve, ThreadWaiters(), lambda: self.now, "leases"
        )
        self.waiting: list[Asker] = []
        self.out = 0

    def room_for(self, priority: Priority) -> bool:
        return self.out < (self.limit if priority is Priority.CRITICAL else self.open_limit)

    @rule(priority=st.sampled_from(Priority), seconds=st.sampled_from([0.0, 1.0, 2.0, 7.0]))
    def enter(self, priority: Priority, seconds: float) -> None:
        gate = self.gate
        if self.room_for(priority):
            assert gate.in_use < (gate.limit if priority is Priority.CRITICAL else gate.open_limit)
            gate.in_use += 1
            self.out += 1
            return
        assert gate.in_use >= (gate.limit if priority is Priority.CRITICAL else gate.open_limit)
        acquire = QueuedAcquire(priority, self.now, self.now + seconds)
        if len(self.waiting) >= self.queue:
            last = max((x for x in self.waiting), key=lambda x: x.priority, default=None)
            if last is None or last.priority <= priority:
                with pytest.raises(OverloadedError, match=rf"queue={self.queue}"):
                    gate.join(acquire, self.now + seconds)
                return
            gives_way = [x for x in self.waiting if x.priority is last.priority][-1]
            waiter = gate.join(acquire, self.now + seconds)
            with pytest.raises(OverloadedError):
                gives_way.waiter.result()
            self.waiting.remove(gives_way)
            gate.leave(gives_way.acquire)
        else:
            waiter = gate.join(acquire, self.now + seconds)
        self.waiting.append(Asker(priority, self.now + seconds / 2, acquire, waiter))

    @precondition(lambda self: self.out)
    @rule()
    def give_back(self) -> None:
        self.gate.in_use -= 1
        self.out -= 1
        self.gate.dispatch()
        self.expect_grants()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        asker = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(asker)
        self.gate.leave(asker.acquire)
        self.gate.leave(asker.acquire)  # a second time, as after an interrupt
        self.expect_grants()

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(limit=st.integers(1, 12), share=st.floats(0, 1))
    def change_limit(self, limit: int, share: float) -> None:
        self.limit, self.open_limit = limit, max(1, int(limit * share))
        self.gate.set_limit(limit, self.open_limit)
        self.gate.dispatch()
        self.expect_grants()

    def expect_grants(self) -> None:
        """Check that exactly those acquires have a permit that are next by the model."""
        while self.waiting:
            able = [x for x in self.waiting if self.room_for(x.priority)]
            if not able:
                break
            aged = [x for x in able if x.half_at <= self.now]
            first = min(aged or able, key=(lambda x: x.half_at) if aged else (lambda x: x.priority))
            assert first.waiter.done()
            assert first.acquire.granted
            self.gate.release_waiter(first.acquire)
            first.acquire.granted = False
            self.waiting.remove(first)
            self.out += 1
        assert not any(x.waiter.done() for x in self.waiting)

    @invariant()
    def counts_are_right(self) -> None:
        assert self.gate.in_use == self.out
        assert self.gate.waiting == len(self.waiting)
        assert not any(self.room_for(x.priority) for x in self.waiting), "a wakeup was lost"

    def teardown(self) -> None:
        if not hasattr(self, "gate"):
            return
        self.gate.close()
        for asker in self.waiting:
            with pytest.raises(PoolManagerClosedError):
                asker.waiter.result()


TestGate = GateMachine.TestCase
TestGate.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


def test_a_queue_whose_waiters_give_up_does_not_grow() -> None:
    gate = AdmissionGate(1, 100, 0.0, ThreadWaiters(), lambda: 0.0, "leases")
    gate.in_use = 1
    for _ in range(10_000):
        acquire = QueuedAcquire(Priority.NORMAL, 0.0, 1000.0)
        gate.join(acquire, 1000.0)
        gate.leave(acquire)
    kept = [*gate._queues.values(), *gate._by_age.values()]  # noqa: SLF001  # these would grow
    assert sum(map(len, kept)) < 200
