"""The synchronous step of the topology: which nodes may serve after which observations.

Each test bears the number of the invariant it stands for, where it stands for one.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from hasql._manager.options import never_master_hosts
from hasql.cluster.discovered import Discovered
from hasql.cluster.host import HostSpec, parse_host
from hasql.cluster.probe import Reading, Role
from hasql.cluster.state import Exclusion, Health, Rules
from hasql.cluster.topology import (
    AbortLeases,
    Answered,
    Changed,
    Failed,
    FirstRoundOver,
    Observation,
    Probe,
    Purge,
    Quiet,
    Step,
    Topology,
)

A, B, C = (HostSpec(name, 5432) for name in "abc")
_STARTS = {A: 11, B: 12, C: 13}


def master(
    host: HostSpec,
    at: float,
    *,
    timeline: int | None = 1,
    system_id: int | None = 7,
    started_at: int | None = None,
) -> Answered:
    reading = Reading(Role.MASTER, system_id, started_at or _STARTS[host], timeline, 100)
    return Answered(host, at, at + 0.001, reading)


def replica(
    host: HostSpec, at: float, *, system_id: int | None = 7, started_at: int | None = None
) -> Answered:
    reading = Reading(Role.REPLICA, system_id, started_at or _STARTS[host], None, 100)
    return Answered(host, at, at + 0.001, reading)


def failed(host: HostSpec, at: float) -> Failed:
    return Failed(host, at, at + 0.001, ConnectionRefusedError("refused"))


def after(
    *observations: Observation, hosts: tuple[HostSpec, ...] = (A, B), rules: Rules | None = None
) -> Step:
    """Play observations on a new topology; return the step of the last one."""
    step = Step(Topology.of(hosts, 0.0, rules))
    for observation in observations:
        step = step.topology.observe(observation)
    return step


def masters(step: Step) -> set[str]:
    return {node.host.host for node in step.topology.masters}


def replicas(step: Step) -> set[str]:
    return {node.host.host for node in step.topology.replicas}


def exclusion(step: Step, host: HostSpec) -> Exclusion | None:
    node = step.topology.node(host)
    assert node is not None
    return node.exclusion


# 1. One writer, whole snapshots


def test_1_an_older_observation_never_overwrites_a_newer_one() -> None:
    step = after(master(A, 5), replica(B, 5))
    late = step.topology.observe(replica(A, 4))
    assert late.topology is step.topology
    assert late.effects == ()
    assert step.topology.observe(failed(A, 4)).topology is step.topology
    assert step.topology.observe(Quiet(A, 4)).topology is step.topology


def test_1_an_observation_of_an_unknown_host_changes_nothing() -> None:
    step = after(master(A, 1), replica(B, 1))
    assert step.topology.observe(master(C, 9)).topology is step.topology


def test_1_a_topology_is_replaced_and_never_changed() -> None:
    before = after(master(A, 1), replica(B, 1)).topology
    picture = before.masters, before.replicas, before.nodes
    before.observe(failed(A, 2))
    before.observe(master(B, 2, timeline=2))
    assert (before.masters, before.replicas, before.nodes) == picture


def test_1_an_answer_that_changes_nothing_calls_for_nothing() -> None:
    step = after(master(A, 1), replica(B, 1), master(A, 2))
    assert step.effects == ()
    assert masters(step) == {"a"}


# 9. Fencing, and the first round


def test_9_nobody_serves_before_every_host_had_its_chance() -> None:
    step = after(master(A, 0.01))
    assert masters(step) == set()
    assert masters(Step(step.topology.observe(replica(B, 0.02)).topology)) == {"a"}
    assert masters(Step(step.topology.observe(failed(B, 0.02)).topology)) == {"a"}
    assert masters(Step(step.topology.observe(FirstRoundOver(0.1)).topology)) == {"a"}


def test_9_the_higher_timeline_wins_in_whatever_order_they_are_met() -> None:
    for order in permutations([master(A, 1), master(B, 1.5, timeline=2), replica(C, 1)]):
        step = after(*order, hosts=(A, B, C))
        assert masters(step) == {"b"}
        assert replicas(step) == {"c"}
        assert exclusion(step, A) is Exclusion.FENCED


def test_9_a_replaced_master_is_purged_and_its_leases_aborted_on_the_winners_own_word() -> None:
    step = after(master(A, 1), replica(B, 1), master(B, 2, timeline=2))
    assert Purge(A) in step.effects
    assert AbortLeases(A) in step.effects
    assert Probe() in step.effects


def test_9_a_silent_old_master_is_fenced_before_it_can_come_back() -> None:
    step = after(master(A, 1), replica(B, 1), failed(A, 2), master(B, 3, timeline=2))
    assert AbortLeases(A) in step.effects
    thawed = step.topology.observe(master(A, 4))
    assert masters(thawed) == {"b"}
    assert exclusion(thawed, A) is Exclusion.FENCED


def test_9_a_timeline_that_was_seen_is_remembered_while_its_master_is_down() -> None:
    step = after(master(A, 1), replica(B, 1), failed(A, 2), master(B, 3, timeline=2), failed(B, 4))
    returned = step.topology.observe(master(A, 5))
    assert masters(returned) == set()
    assert exclusion(returned, A) is Exclusion.FENCED
    # Leases are not aborted for a remembered winner: it might be the one that is wrong now.
    assert AbortLeases(A) not in returned.effects


def test_9_accept_timeline_lets_an_older_master_serve_again() -> None:
    step = after(master(A, 1), master(B, 1, timeline=2), failed(B, 2), master(A, 3))
    assert masters(step) == set()
    assert masters(step.topology.without_seen_timelines(4)) == {"a"}


def test_9_accept_timeline_leaves_the_serving_master_of_a_split_alone() -> None:
    split = after(master(A, 1), replica(B, 1), master(B, 2)).topology
    assert masters(split.without_seen_timelines(3)) == {"a"}


def test_9_of_equal_timelines_the_incumbent_stays() -> None:
    step = after(master(A, 1), replica(B, 1), master(B, 2))
    assert masters(step) == {"a"}
    assert exclusion(step, B) is Exclusion.SPLIT


def test_9_without_an_incumbent_equal_timelines_leave_no_master() -> None:
    step = after(master(A, 1), master(B, 1))
    assert masters(step) == set()
    assert exclusion(step, A) is exclusion(step, B) is Exclusion.SPLIT


def test_9_a_split_is_resolved_when_the_other_is_a_replica_or_left_behind() -> None:
    split = after(master(A, 1), master(B, 1)).topology
    assert masters(split.observe(replica(B, 2, started_at=99))) == {"a"}
    assert masters(split.observe(master(B, 2, timeline=2))) == {"b"}


def test_9_silence_does_not_resolve_a_split() -> None:
    split = after(master(A, 1), replica(B, 1), master(B, 2)).topology
    assert masters(split.observe(failed(A, 3))) == set()
    fresh = after(master(A, 1), master(B, 1)).topology
    assert masters(fresh.observe(failed(A, 3))) == set()


@pytest.mark.parametrize("restarted", [False, True])
def test_9_a_source_that_does_not_name_the_loser_for_a_moment_does_not_resolve_a_split(
    *, restarted: bool
) -> None:
    split = after(master(A, 1), replica(B, 1), master(B, 2)).topology
    alone = split.with_hosts([Discovered(A)], 3).topology.without([B], 3)
    assert masters(alone) == {"a"}
    silent = alone.topology.observe(failed(A, 4)).topology
    named = silent.with_hosts([Discovered(A), Discovered(B)], 5).topology
    back = named.observe(master(B, 6, started_at=99 if restarted else None))
    assert masters(back) == set()
    assert exclusion(back, B) is Exclusion.SPLIT
    # But B is the master once A is no host, B has begun a new timeline, or `accept_timeline` has
    # been called.
    assert masters(back.topology.without([A], 7)) == {"b"}
    assert masters(back.topology.observe(master(B, 7, timeline=2))) == {"b"}
    assert masters(back.topology.without_seen_timelines(7)) == {"b"}


def test_9_a_tag_that_is_lifted_does_not_resolve_a_split() -> None:
    split = after(master(A, 1), replica(B, 1), master(B, 2)).topology
    tagged = split.with_hosts([Discovered(A), Discovered(B, never_master=True)], 3).topology
    silent = tagged.observe(failed(A, 4)).topology
    lifted = silent.with_hosts([Discovered(A), Discovered(B)], 5)
    assert masters(lifted) == set()
    assert exclusion(lifted, B) is Exclusion.SPLIT


def test_9_a_restarted_master_stays_the_incumbent() -> None:
    step = after(master(A, 1), replica(B, 1), failed(A, 2), master(A, 3, started_at=99))
    assert masters(step) == {"a"}


def test_9_a_server_that_moved_to_another_host_is_no_split() -> None:
    step = after(master(A, 1), failed(B, 1), failed(A, 2), master(B, 3))
    assert masters(step) == {"b"}


def test_9_a_never_master_is_never_one_and_fences_nobody() -> None:
    rules = Rules(never_master=frozenset({("b", None)}))
    step = after(master(A, 1), replica(B, 1), master(B, 2, timeline=9), rules=rules)
    assert masters(step) == {"a"}
    assert exclusion(step, B) is Exclusion.NEVER_MASTER
    assert replicas(after(master(A, 1), replica(B, 1), rules=rules)) == {"b"}


@pytest.mark.parametrize(("port", "masters_left"), [(5432, set()), (5433, {"b"})])
def test_9_never_master_with_a_port_means_that_port(port: int, masters_left: set[str]) -> None:
    rules = Rules(never_master=frozenset({("b", port)}))
    assert masters(after(replica(A, 1), master(B, 1), rules=rules)) == masters_left


@pytest.mark.parametrize("never", ["B.example", "b.example.", "10.0.0.2"])
@pytest.mark.parametrize("host", ["b.example[10.0.0.2]", "b.example.[10.0.0.2]"])
def test_9_never_master_knows_a_host_however_its_name_is_written(never: str, host: str) -> None:
    rules = Rules(never_master=never_master_hosts([never], None))
    assert rules.forbids_master(parse_host(host))
    assert not rules.forbids_master(parse_host("c.example[10.0.0.3]"))


def test_9_a_node_of_another_cluster_is_refused() -> None:
    step = after(master(A, 1), replica(B, 1), replica(C, 1, system_id=8), hosts=(A, B, C))
    assert replicas(step) == {"b"}
    assert exclusion(step, C) is Exclusion.FOREIGN


def test_9_the_cluster_is_that_of_most_hosts_in_the_first_round() -> None:
    step = after(
        master(A, 1, system_id=8, timeline=5), master(B, 1), replica(C, 1), hosts=(A, B, C)
    )
    assert masters(step) == {"b"}
    assert exclusion(step, A) is Exclusion.FOREIGN


def test_9_several_clusters_serve_side_by_side_if_allowed() -> None:
    rules = Rules(allow_several_clusters=True)
    step = after(master(A, 1, system_id=8, timeline=5), master(B, 1), rules=rules)
    assert masters(step) == {"a", "b"}


def test_9_an_upgraded_cluster_is_taken_over_after_half_a_minute_of_silence() -> None:
    down = after(master(A, 1), replica(B, 1), failed(A, 2), failed(B, 2)).topology
    early = down.observe(master(A, 20, system_id=8))
    assert masters(early) == set()
    assert exclusion(early, A) is Exclusion.FOREIGN
    assert masters(early.topology.observe(failed(A, 21)).topology.observe(
        master(A, 40, system_id=8)
    )) == {"a"}  # fmt: skip


def test_9_an_upgraded_cluster_that_was_back_soon_is_taken_over_in_time() -> None:
    topology = after(master(A, 1), failed(B, 1), failed(A, 2), master(A, 5, system_id=8)).topology
    for at in range(6, 30):
        topology = topology.observe(master(A, at, system_id=8)).topology
        assert topology.masters == ()
    assert masters(topology.observe(master(A, 40, system_id=8))) == {"a"}


def test_9_the_first_to_answer_does_not_choose_the_cluster() -> None:
    early = after(replica(A, 0.01, system_id=8), FirstRoundOver(0.1), hosts=(A, B, C)).topology
    step = early.observe(master(B, 0.2)).topology.observe(replica(C, 0.3))
    assert masters(step) == {"b"}
    assert replicas(step) == {"c"}
    assert exclusion(step, A) is Exclusion.FOREIGN


def test_8_a_server_that_refuses_new_logins_has_answered() -> None:
    up = after(master(A, 1), replica(B, 1)).topology
    full = Failed(A, 20, 20, OSError("too many connections"), known_alive=True)
    step = up.observe(full)
    assert masters(step) == {"a"}
    assert not {Purge(A), AbortLeases(A)} & set(step.effects)
    assert masters(step.topology.observe(failed(A, 21))) == set()


def test_9_one_server_under_two_names_is_no_split_and_counts_once() -> None:
    step = after(master(A, 1), master(B, 1, started_at=_STARTS[A]))
    assert masters(step) == {"a"}
    assert exclusion(step, B) is Exclusion.ALIAS
    assert masters(step.topology.observe(failed(A, 2))) == {"b"}


@pytest.mark.parametrize("field", ["system_id", "timeline"])
def test_9_without_identity_or_timeline_nobody_is_fenced(field: str) -> None:
    plain = replace(master(B, 1).reading, **{field: None})  # type: ignore[arg-type]
    step = after(master(A, 1, timeline=3), Answered(B, 1, 1, plain))
    assert masters(step) == {"a", "b"}


def test_9_without_fencing_all_masters_serve() -> None:
    step = after(master(A, 1), master(B, 1, timeline=2), rules=Rules(fencing=False))
    assert masters(step) == {"a", "b"}


# 7, 8 and 10: the effects of a change


def test_7_a_loss_calls_for_a_probe_of_everybody() -> None:
    step = after(master(A, 1), replica(B, 1), failed(A, 2))
    assert Probe(A) in step.effects
    assert step.topology.masters == ()
    again = step.topology.observe(failed(A, 3))
    assert again.effects == ()


def test_8_a_quiet_host_is_suspect_and_still_in_routing() -> None:
    step = after(master(A, 1), replica(B, 1), Quiet(B, 2))
    node = step.topology.node(B)
    assert node is not None
    assert node.health is Health.SUSPECT
    assert replicas(step) == {"b"}
    well = step.topology.observe(replica(B, 3)).topology.node(B)
    assert well is not None
    assert well.health is Health.UP


def test_8_a_master_that_goes_quiet_calls_for_a_probe_of_everybody() -> None:
    up = after(master(A, 1), replica(B, 1)).topology
    assert Probe(A) in up.observe(Quiet(A, 2)).effects
    assert up.observe(Quiet(B, 2)).effects[1:] == ()


def test_7_a_host_that_comes_back_as_it_was_says_no_more_than_that() -> None:
    down = after(master(A, 1), replica(B, 1), failed(B, 2)).topology
    assert [x for x in down.observe(replica(B, 3)).effects if isinstance(x, Probe)] == [Probe(B)]
    assert [x for x in down.observe(master(B, 3)).effects if isinstance(x, Probe)] == [Probe()]


def test_8_leases_on_a_host_are_aborted_once_it_has_been_silent_for_long() -> None:
    rules = Rules(lease_abort_after=10)
    up = after(master(A, 1), replica(B, 1), rules=rules).topology
    silent = up.observe(failed(B, 30)).topology
    assert AbortLeases(B) not in up.observe(failed(B, 30)).effects
    assert AbortLeases(B) not in silent.observe(failed(B, 39.9)).effects
    assert AbortLeases(B) in silent.observe(failed(B, 40)).effects
    assert AbortLeases(B) not in up.observe(Quiet(B, 99)).effects
    heard = silent.observe(replica(B, 35)).topology
    assert AbortLeases(B) not in heard.observe(failed(B, 44)).effects
    never = after(master(A, 1), replica(B, 1), failed(B, 99), rules=Rules(lease_abort_after=None))
    assert AbortLeases(B) not in never.effects


def test_8_a_connection_that_stays_silent_while_a_new_one_works_is_not_the_only_one() -> None:
    up = after(master(A, 1), replica(B, 1)).topology
    assert up.observe(replica(B, 2)).effects == ()
    assert up.observe(replace(replica(B, 2), afresh=True)).effects == (Purge(B),)
    assert up.observe(replace(master(A, 2), afresh=True)).effects == (Purge(A),)


def test_10_what_leaves_or_restarts_is_purged() -> None:
    up = after(master(A, 1), replica(B, 1)).topology
    assert Purge(B) in up.observe(failed(B, 2)).effects
    assert Purge(B) in up.observe(replica(B, 2, started_at=99)).effects
    assert Purge(B) not in up.observe(replica(B, 2)).effects
    # Sessions on a standby survive its promotion.
    assert Purge(B) not in up.observe(failed(A, 2)).topology.observe(
        master(B, 3, timeline=2)
    ).effects  # fmt: skip


# Hosts that come and go


def named(*hosts: HostSpec) -> tuple[Discovered, ...]:
    return tuple(Discovered(host) for host in hosts)


def hosts_of(step: Step) -> list[HostSpec]:
    return [node.host for node in step.topology.nodes]


def may_go(step: Step) -> set[str]:
    return {node.host.host for node in step.topology.nodes if node.may_go}


def test_hosts_that_stay_keep_what_is_known_of_them() -> None:
    up = after(master(A, 1), replica(B, 1)).topology
    step = up.with_hosts(named(C, A), 2)
    assert hosts_of(step) == [C, A, B]  # B stays until its leases are back
    assert masters(step) == {"a"}
    assert replicas(step) == set()
    assert may_go(step) == {"b"}
    assert Purge(B) in step.effects
    assert replicas(step.topology.observe(replica(C, 3))) == {"c"}
    gone = step.topology.without({B}, 4)
    assert hosts_of(gone) == [C, A]
    assert gone.effects == ()


def test_a_host_that_is_named_again_serves_as_it_did() -> None:
    left = after(master(A, 1), replica(B, 1)).topology.with_hosts(named(A), 2)
    assert exclusion(left, B) is Exclusion.LEAVING
    back = left.topology.with_hosts(named(A, B), 3)
    assert (masters(back), replicas(back), may_go(back)) == ({"a"}, {"b"}, set())


def test_17_a_master_that_is_named_no_more_serves_until_another_does() -> None:
    step = after(master(A, 1), replica(B, 1)).topology.with_hosts(named(B, C), 2)
    assert (masters(step), replicas(step), may_go(step)) == ({"a"}, {"b"}, set())
    assert step.effects == ()
    step = step.topology.observe(failed(C, 3))
    assert masters(step) == {"a"}
    # A promotion has the same effects as always.
    promoted = step.topology.observe(master(B, 4, timeline=2))
    assert masters(promoted) == {"b"}
    assert exclusion(promoted, A) is Exclusion.FENCED
    assert AbortLeases(A) in promoted.effects
    assert may_go(promoted) == {"a"}
    # A master that has gone down is not waited for.
    assert may_go(step.topology.observe(failed(A, 4))) == {"a"}


def test_17_hosts_serve_while_none_that_is_named_in_their_place_answers() -> None:
    step = after(master(A, 1), replica(B, 1)).topology.with_hosts(named(C), 2)
    for _ in range(2):
        assert (masters(step), replicas(step), may_go(step)) == ({"a"}, {"b"}, set())
        step = step.topology.observe(failed(C, 3))
    step = step.topology.observe(replica(C, 4))
    assert (masters(step), replicas(step), may_go(step)) == ({"a"}, {"c"}, {"b"})


def test_17_hosts_of_another_cluster_replace_nobody() -> None:
    step = after(master(A, 1), replica(B, 1)).topology.with_hosts(named(C), 2)
    step = step.topology.observe(master(C, 3, system_id=8))
    assert exclusion(step, C) is Exclusion.FOREIGN
    assert (masters(step), replicas(step)) == ({"a"}, {"b"})


def test_a_new_name_of_a_server_takes_the_place_of_its_old_one() -> None:
    step = after(master(A, 1), hosts=(A,)).topology.with_hosts(named(B), 2)
    step = step.topology.observe(master(B, 3, started_at=_STARTS[A]))
    assert masters(step) == {"b"}
    assert may_go(step) == {"a"}
    assert exclusion(step, A) is Exclusion.LEAVING


def test_9_no_hosts_are_no_first_round() -> None:
    step = Step(Topology.of((), 0.0)).topology.with_hosts((), 0)
    assert not step.topology.first_round_over
    step = step.topology.with_hosts(named(A, B), 1).topology.observe(master(A, 2))
    assert masters(step) == set()  # B may be the master that has replaced A
    step = step.topology.observe(master(B, 3, timeline=2))
    assert masters(step) == {"b"}


def test_what_a_source_says_of_a_host_holds_from_then_on() -> None:
    step = after(master(A, 1), replica(B, 1))
    forbids = Discovered(A, never_master=True), Discovered(B, never_replica=True)
    step = step.topology.with_hosts(forbids, 2)
    assert exclusion(step, A) is Exclusion.NEVER_MASTER
    assert exclusion(step, B) is Exclusion.NEVER_REPLICA
    assert {Purge(A), Purge(B)} <= {*step.effects}
    promoted = step.topology.observe(master(B, 3, timeline=2)).topology.observe(replica(A, 3))
    assert (masters(promoted), replicas(promoted)) == ({"b"}, {"a"})
    step = step.topology.with_hosts(named(A, B), 3)
    assert (masters(step), replicas(step)) == ({"a"}, {"b"})


def test_a_change_is_dated_and_reported_once() -> None:
    step = after(master(A, 1), replica(B, 1), failed(B, 5))
    [change] = [effect for effect in step.effects if isinstance(effect, Changed)]
    assert change.before.health is Health.UP
    assert change.after.health is Health.DOWN
    assert change.after.since == pytest.approx(5.001)
    later = step.topology.observe(failed(B, 6)).topology.node(B)
    assert later is not None
    assert later.since == pytest.approx(5.001)


def test_14_a_node_describes_itself() -> None:
    step = after(master(A, 1), replica(B, 1), failed(A, 2), master(B, 3, timeline=2))
    lines = [node.describe(10) for node in step.topology.nodes]
    assert lines[0].startswith("a:5432 down for ")
    assert "last error: ConnectionRefusedError: refused" in lines[0]
    assert lines[1].startswith("b:5432 up master (timeline 2) for 7.0 s")


def test_10_a_start_that_is_not_told_is_neither_a_restart_nor_another_server() -> None:
    for first, second in ((11, None), (None, 11)):
        readings = [
            Reading(Role.MASTER, 7, start, 1, 100, uptime=50.0) for start in (first, second)
        ]
        step = after(*(Answered(A, at, at, each) for at, each in enumerate(readings)), hosts=(A,))
        assert Purge(A) not in step.effects
        node = step.topology.node(A)
        assert node is not None
        assert not node.several_servers
