"""How far a replica is behind its master."""

from hasql.cluster.probe import Role
from hasql.cluster.state import NodeState
from hasql.cluster.topology import Topology

__all__ = ("lag_of", "written_by_masters")


def written_by_masters(topology: Topology) -> dict[int | None, int | None]:
    """Return the WAL position of each cluster's master in routing, by system identifier."""
    return {
        state.system_id: state.reading.wal_position
        for state in topology.masters
        if state.reading is not None
    }


def lag_of(state: NodeState, written: int | None) -> tuple[int | None, float | None]:
    """Return how far a replica is behind, in bytes and seconds; None where that is not known.

    It is taken from the last probes of both. `written` is the master's WAL position.
    """
    reading = state.reading
    if reading is None or state.role is not Role.REPLICA:
        return None, None
    replayed, age = reading.wal_position, reading.replay_age
    if age is not None:
        age = max(0.0, age)  # the master's clock, which dated the commit, may be ahead
    if replayed is None or written is None:
        return None, age
    lag = max(0, written - replayed)
    # A replica that has replayed everything is not behind, however long ago the last commit was.
    return lag, age if lag else 0.0
