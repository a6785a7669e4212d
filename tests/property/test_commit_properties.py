"""The outcome that hasql tells of a commit is never wrong, whatever has happened (20).

The tests use a small model of PostgreSQL: servers with a partly flushed write-ahead log give ids to
transactions, crash, restart, follow one another and are promoted. The outcome that the rule derives
from a master's answer is always compared with that master's log.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from random import Random

from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Reading, Role
from hasql.cluster.topology import Answered, Failed, FirstRoundOver, Topology
from hasql.resilience import CommitMark, Outcome
from hasql.resilience.commit_rule import StatusAnswer, last_sign, outcome_of

SYSTEM = 7
#: Microseconds that a server takes at least from its end to its next commit.
START = 20_000


@dataclass(frozen=True)
class Record:
    """One record of the log: whose transaction it belongs to, and whether it is the commit."""

    xid: int = 0
    owner: int = 0
    commit: bool = False
    at: int = 0


@dataclass
class Server:
    host: HostSpec
    started_at: int
    master: bool = False
    alive: bool = True
    log: list[Record] = field(default_factory=list)
    flushed: int = 0
    timeline: int = 1
    next_xid: int = 100
    running: set[int] = field(default_factory=set)
    recovered_to: int | None = None
    was_standby: bool = False
    last_replayed: int | None = None
    followed: int = 1
    #: Where the log ended when the server last started.
    began_at: int = 0

    def status(self, xid: int) -> str:
        if xid in self.running or xid >= self.next_xid:
            return "in progress"
        committed = any(each.commit and each.xid == xid for each in self.log)
        return "committed" if committed else "aborted"

    def reading(self, now: int) -> Reading:
        if not self.master:
            return Reading(Role.REPLICA, SYSTEM, self.started_at, followed=self.followed)
        return Reading(
            Role.MASTER,
            SYSTEM,
            self.started_at,
            self.timeline,
            uptime=(now - self.started_at) / 1_000_000,
            flushed=self.flushed,
            recovered_to=self.recovered_to,
            was_standby=self.was_standby,
            last_replayed=self.last_replayed,
        )


class Cluster:
    """The servers, what happens to them, and what hasql sees of it."""

    def __init__(self, told: Counter[tuple[Outcome | None, int]]) -> None:
        #: How often each outcome was told, and after how many promotions at most.
        self.told = told
        self.now = 1_000_000
        self.owners = count(1)
        self.begun = {1}
        self.servers = [Server(HostSpec(name, 1), self.now + n) for n, name in enumerate("abc")]
        self.servers[0].master = True
        self.marks: list[tuple[CommitMark, int]] = []
        self.topology = Topology.of([server.host for server in self.servers], 0.0)
        for server in self.servers:
            self.probe(server, 0)
        self.topology = self.topology.observe(FirstRoundOver(0.5)).topology

    # What a server does

    def transact(self, server: Server, number: int) -> None:
        """Let a transaction write, and keep its mark; it may commit, roll back or go on."""
        if not server.master:
            return
        xid, owner = server.next_xid, next(self.owners)
        server.next_xid += 1
        server.log.append(Record(xid, owner))
        server.running.add(xid)
        mark = CommitMark(
            xid,
            server.host,
            SYSTEM,
            server.timeline,
            len(server.log),
            server.flushed,
            server.started_at,
            server.recovered_to,
            self.now,
        )
        self.marks.append((mark, owner))
        if number % 3:
            self.end(server, xid, owner, commit=number % 3 == 1)

    def end(self, server: Server, xid: int, owner: int, *, commit: bool) -> None:
        server.running.discard(xid)
        if commit:
            server.log.append(Record(xid, owner, commit=True, at=self.now))

    def write(self, server: Server, number: int) -> None:
        """Let other transactions write and commit, which uses up ids."""
        if server.master:
            for _ in range(number % 4 + 1):
                xid, owner = server.next_xid, next(self.owners)
                server.next_xid += 1
                server.log.append(Record(xid, owner))
                self.end(server, xid, owner, commit=True)

    def flush(self, server: Server, _: int) -> None:
        if server.master:
            server.flushed = len(server.log)

    def crash(self, server: Server, number: int) -> None:
        """Lose none, some or all of the unflushed log, and restart, maybe with a new postmaster."""
        lost = len(server.log) - server.flushed
        del server.log[len(server.log) - (number % (lost + 1)) :]
        self._start(server, crashed=True)
        if number % 2:
            server.started_at = self.now

    def restart(self, server: Server, _: int) -> None:
        self._start(server, crashed=False)
        server.started_at = self.now

    def _start(self, server: Server, *, crashed: bool) -> None:
        self.now += START
        server.running.clear()
        server.flushed = server.began_at = len(server.log)
        server.next_xid = max([99, *(each.xid for each in server.log)]) + 1
        server.was_standby, server.last_replayed = False, None
        server.followed = min(server.followed, server.timeline)
        if server.master:
            server.recovered_to = len(server.log) if crashed else None
            server.log.append(Record(owner=next(self.owners)))
            server.flushed = len(server.log)

    def follow(self, server: Server, number: int) -> None:
        """Receive a part of what another server has flushed, if the logs agree so far."""
        for other in self.servers:
            if other.master and not server.master and other.timeline >= server.timeline:
                have = len(server.log)
                if server.log == other.log[:have] and have <= other.flushed:
                    server.log += other.log[have : have + number % 9]
                    del server.log[other.flushed :]
                    server.flushed = len(server.log)
                    server.timeline = max(server.timeline, other.timeline)
                    if number % 2:
                        server.followed = other.timeline
                    return

    def promote(self, server: Server, _: int) -> None:
        # If two servers begin timelines of the same number and hasql has not seen both, it cannot
        # know; the model leaves that out.
        begun = server.timeline + 1
        seen = {x.timeline for x in self.topology.seen.switches.get(SYSTEM, ())}
        if server.master or (begun in self.begun and begun not in seen):
            return
        self.now += 1000
        replayed = [each.at for each in server.log[server.began_at :] if each.commit]
        server.master, server.was_standby = True, True
        server.recovered_to = len(server.log)
        server.last_replayed = replayed[-1] if replayed else None
        server.timeline = begun
        server.next_xid = max([99, *(each.xid for each in server.log)]) + 1
        server.log.append(Record(owner=next(self.owners)))
        server.flushed = len(server.log)
        if begun in self.begun:
            self.probe(server, 0)
        self.begun.add(begun)

    def rejoin(self, server: Server, number: int) -> None:
        """Make a server a replica of another one, with that one's log."""
        others = [each for each in self.servers if each.master and each is not server]
        if others:
            other = others[number % len(others)]
            server.master, server.timeline = False, other.timeline
            server.log = other.log[: other.flushed]
            server.followed = other.timeline
            server.recovered_to = None
            self.restart(server, 0)

    # What hasql sees

    def probe(self, server: Server, _: int) -> None:
        at = self.now / 1_000_000
        answer = Answered(server.host, at, at, server.reading(self.now))
        self.topology = self.topology.observe(answer).topology

    def lose(self, server: Server, _: int) -> None:
        at = self.now / 1_000_000
        failed = Failed(server.host, at, at, OSError())
        self.topology = self.topology.observe(failed).topology

    def check(self) -> None:
        """Ask each master that hasql routes to about every commit."""
        routed = {state.host for state in self.topology.masters}
        for server in self.servers:
            if not server.master or server.host not in routed:
                continue
            there = {each.owner for each in server.log if each.commit}
            for mark, owner in self.marks:
                told = self._told(mark, server)
                self.told[told, server.timeline - mark.timeline] += 1
                if told is Outcome.COMMITTED:
                    assert owner in there, (mark, server)
                if told is Outcome.ABORTED:
                    assert owner not in there, (mark, server)

    def _told(self, mark: CommitMark, server: Server) -> Outcome | None:
        answer = StatusAnswer(server.host, server.status(mark.xid), server.reading(self.now))
        state = self.topology.node(mark.host)
        sign = last_sign(mark, None if state is None else state.reading)
        for later, _ in self.marks:
            if later.server == mark.server:
                sign = sign.and_then(last_sign(later, None))
        return outcome_of(mark, answer, self.topology.seen.switches.get(SYSTEM, ()), sign)


#: What may happen, and its relative frequency.
STEPS = {
    Cluster.transact: 20,
    Cluster.write: 10,
    Cluster.flush: 10,
    Cluster.follow: 40,
    Cluster.probe: 30,
    Cluster.crash: 3,
    Cluster.restart: 2,
    Cluster.promote: 3,
    Cluster.rejoin: 4,
    Cluster.lose: 3,
}


def test_20_no_story_makes_an_outcome_wrong() -> None:
    told: Counter[tuple[Outcome | None, int]] = Counter()
    for seed in range(200):
        chance = Random(seed)  # noqa: S311  # no secret
        cluster = Cluster(told)
        for _ in range(250):
            cluster.now += 1000
            [step] = chance.choices([*STEPS], [*STEPS.values()])
            step(cluster, chance.choice(cluster.servers), chance.randrange(12))
            if chance.random() < 0.1:
                cluster.check()
    # Each outcome was told on the same timeline, and after one and two promotions.
    for outcome in Outcome:
        for promotions in range(3):
            assert told[outcome, promotions] > 0, (outcome, promotions)
