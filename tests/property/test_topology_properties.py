"""The step of the topology under any observations in any order."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Reading, Role
from hasql.cluster.state import Health, Rules
from hasql.cluster.topology import Answered, Failed, FirstRoundOver, Observation, Quiet, Topology

HOSTS = tuple(HostSpec(name, 5432) for name in "abcd")

readings = st.builds(
    Reading,
    role=st.sampled_from([Role.MASTER, Role.REPLICA]),
    system_id=st.sampled_from([None, 7, 7, 7, 8]),
    started_at=st.sampled_from([None, 1, 2, 3, 4, 5]),
    timeline=st.sampled_from([None, 1, 2, 3]),
)
times = st.floats(min_value=0, max_value=100)
observations: st.SearchStrategy[Observation] = st.one_of(
    st.builds(
        lambda host, at, reading: Answered(host, at, at + 0.01, reading),
        st.sampled_from(HOSTS), times, readings,
    ),
    st.builds(
        lambda host, at: Failed(host, at, at + 0.01, OSError("down")), st.sampled_from(HOSTS), times
    ),
    st.builds(Quiet, st.sampled_from(HOSTS), times),
    st.builds(FirstRoundOver, times),
)  # fmt: skip
rules = st.builds(
    Rules,
    fencing=st.booleans(),
    allow_several_clusters=st.booleans(),
    never_master=st.sampled_from([frozenset(), frozenset({("a", None)})]),
)


def play(topology: Topology, played: list[Observation]) -> Topology:
    for observation in played:
        topology = topology.observe(observation).topology
    return topology


@given(rules, st.lists(observations, max_size=30))
def test_no_node_is_ever_in_two_roles_or_in_routing_without_answering(
    rules: Rules, played: list[Observation]
) -> None:
    topology = Topology.of(HOSTS, 0, rules)
    for observation in played:
        topology = topology.observe(observation).topology
        masters = {node.host for node in topology.masters}
        replicas = {node.host for node in topology.replicas}
        assert not masters & replicas
        for node in (*topology.masters, *topology.replicas):
            assert node.health in {Health.UP, Health.SUSPECT}
            assert node.exclusion is None
        for node in topology.masters:
            assert node.role is Role.MASTER
            assert not topology.rules.forbids_master(node.host)


@given(st.lists(observations, max_size=30))
def test_no_two_masters_of_one_cluster_serve_and_none_below_a_timeline_once_served(
    played: list[Observation],
) -> None:
    topology = Topology.of(HOSTS, 0)
    highest = 0
    for observation in played:
        topology = topology.observe(observation).topology
        fenceable = [
            node.timeline
            for node in topology.masters
            if node.system_id == 7 and node.timeline is not None
        ]
        assert len(fenceable) <= 1
        assert all(timeline >= highest for timeline in fenceable)
        highest = max([highest, *fenceable])


@dataclass(frozen=True)
class Cluster:
    """A possible cluster: the answer of each host, or None if it is down."""

    answers: tuple[Reading | None, ...]


@st.composite
def sound_clusters(draw: st.DrawFn) -> Cluster:
    """Draw a cluster without two masters on one timeline: there the right picture needs history."""
    timelines = draw(st.permutations([1, 2, 3, 4]))
    answers: list[Reading | None] = []
    for i, timeline in enumerate(timelines):
        role = draw(st.sampled_from([Role.MASTER, Role.REPLICA, None]))
        answers.append(role and Reading(role, 7, 10 + i, timeline if role is Role.MASTER else None))
    return Cluster(tuple(answers))


@given(sound_clusters(), st.permutations(range(4)), st.permutations(range(4)), st.data())
def test_any_order_of_observations_ends_in_the_same_picture(
    cluster: Cluster, one: list[int], other: list[int], data: st.DataObject
) -> None:
    final = [
        Answered(host, 50, 51, reading) if reading else Failed(host, 50, 51, OSError("down"))
        for host, reading in zip(HOSTS, cluster.answers, strict=True)
    ]
    # Observations that come late, and are older than the final ones, count for nothing.
    stale = data.draw(
        st.lists(
            st.builds(
                lambda host, at: Failed(host, at, 60, OSError("late")),
                st.sampled_from(HOSTS), st.floats(0, 49),
            ),
            max_size=5,
        )
    )  # fmt: skip
    pictures = []
    for order in (one, other):
        topology = play(Topology.of(HOSTS, 0), [final[i] for i in order])
        topology = play(topology, list(stale))
        pictures.append(
            (
                [node.host for node in topology.masters],
                [node.host for node in topology.replicas],
                [node.exclusion for node in topology.nodes],
            )
        )
    assert pictures[0] == pictures[1]
    winners = [r.timeline for r in cluster.answers if r is not None and r.role is Role.MASTER]
    assert len(pictures[0][0]) == bool(winners)
