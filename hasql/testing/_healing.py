"""The roles of a cluster's nodes: finds them out, repairs them and hands them over."""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from hasql.errors import ConfigurationError
from hasql.testing._status import NodeStatus
from hasql.testing.errors import ClusterError
from hasql.testing.node import LocalNode

__all__ = ("heal", "master_of", "read_statuses", "switch_over")

# The nodes belong to the same package, and their synchronous core is meant for this module, too.
# ruff: noqa: SLF001

_FOLLOWING_TIMEOUT = 1.5
"""Seconds that a running replica has to follow another master before it rejoins instead.

Following another master takes a tenth of a second or is impossible; an unnecessary rejoin costs
half a second.
"""

_ANSWER_TIMEOUT = 1.0
"""Seconds without an answer after which a server is assumed to be stopped by a signal."""

_POLL = 0.02
"""Seconds between two queries to a server that refuses them."""

_LAST_TIMEOUT = 30.0
"""Seconds after which a running server that gives no answer is no longer waited for.

The time is long because on a busy machine the server may only be slow. If another node were
promoted beside a master that is still alive, everything that master acknowledges from then on
would be lost.
"""


def read_statuses(
    nodes: Iterable[LocalNode], timeout: float = 5.0
) -> dict[LocalNode, NodeStatus | None]:
    """Ask every node for its status; None for a node that does not answer in `timeout` seconds."""
    return {node: _ask(node, timeout) for node in nodes}


def _ask(node: LocalNode, timeout: float = 5.0) -> NodeStatus | None:
    try:
        return node._status(timeout)
    except ClusterError:
        return None


def master_of(found: dict[LocalNode, NodeStatus | None]) -> LocalNode | None:
    """Return the master, or the one promoted last if there are several, or None."""
    masters = [
        ((status.promoted_at, status.timeline, node._promotions), node)
        for node, status in found.items()
        if status is not None and not status.in_recovery
    ]
    return max(masters, key=lambda each: each[0])[1] if masters else None


def _most_advanced(found: dict[LocalNode, NodeStatus | None]) -> LocalNode | None:
    replicas = [
        (status.position, node)
        for node, status in found.items()
        if status is not None and status.in_recovery
    ]
    return max(replicas, key=lambda each: each[0])[1] if replicas else None


def heal(nodes: tuple[LocalNode, ...]) -> None:
    """Make one node master and all others replicas that stream from it."""
    for node in nodes:
        if node.frozen:
            node.thaw()
    found = {node: _settled_status(node) for node in nodes}
    master = master_of(found) or _restore_master(nodes, found)
    # Ask the master again: it may have been started after the others said that they stream from it.
    status = master._status()
    others = [
        node
        for node in nodes
        if node is not master and not _follows(node, found[node], master, status)
    ]
    # Deposed masters come last. A master writes WAL when it stops; replicas that still stream from
    # it would receive that, and would then have more of that timeline than the new master has.
    deposed = [node for node in others if _is_master(found[node])]
    for group in ([node for node in others if node not in deposed], deposed):
        if group:
            with ThreadPoolExecutor(len(group)) as workers:
                list(workers.map(lambda node: _repair(node, found[node], master, status), group))


def _is_master(status: NodeStatus | None) -> bool:
    return status is not None and not status.in_recovery


def _settled_status(node: LocalNode) -> NodeStatus | None:
    """Ask a node for its status once every operation begun on it is over.

    Otherwise the status could change after the answer.
    """
    with node._lock:
        status = _ask(node, _ANSWER_TIMEOUT)
        if status is None and node.running:
            # The node was stopped by a signal from elsewhere, or it cannot answer at present.
            node.thaw()
            status = _ask_again(node)
        if status is not None and node._promoting:
            try:
                node._await_promotion()
            except ClusterError:
                if node.running:
                    node.kill()  # the promotion request is lost with the process
            status = _ask(node)
        return status


def _ask_again(node: LocalNode) -> NodeStatus | None:
    """Ask a node until it answers: a server refuses queries while it recovers from a crash."""
    until = time.monotonic() + _LAST_TIMEOUT
    while (left := until - time.monotonic()) > 0 and node.running:
        if (status := _ask(node, left)) is not None:
            return status
        time.sleep(_POLL)
    return None


def _follows(
    node: LocalNode, own: NodeStatus | None, master: LocalNode, masters: NodeStatus
) -> bool:
    """Tell whether both the node and the master say that the node streams from the master.

    The node's word alone is not enough: on a busy machine a replica may not yet have had the
    processor time to notice that its connection has ended.
    """
    return (
        own is not None
        and not own.paused
        and own.streams(master.port, masters.timeline)
        and node.name in masters.standbys
    )


def _restore_master(
    nodes: tuple[LocalNode, ...],
    found: dict[LocalNode, NodeStatus | None],
) -> LocalNode:
    """Start the master that is down, or else promote the replica that has the most WAL."""
    down = [node for node in nodes if not node.running]
    former = [node for node in down if not node._data.is_replica]
    if former:
        # If several were masters, take the one promoted last, as `master_of` does.
        master = max(former, key=lambda node: node._promotions)
        master._start()
        return master
    if (most_advanced := _most_advanced(found)) is None:
        for node in down:
            node._start()
            found[node] = _ask(node)
        most_advanced = _most_advanced(found)
    if most_advanced is None:
        raise ClusterError(f"no node can become master: {list(nodes)}")
    most_advanced._promote()
    return most_advanced


def _repair(
    node: LocalNode, status: NodeStatus | None, master: LocalNode, masters: NodeStatus
) -> None:
    if status is not None and status.in_recovery and status.may_follow(masters):
        try:
            node._sql("SELECT pg_wal_replay_resume()")
            node._follow(master, _FOLLOWING_TIMEOUT)
        except ClusterError:
            node._rejoin(master)
    else:
        node._rejoin(master)


def switch_over(nodes: tuple[LocalNode, ...], to: LocalNode | None) -> LocalNode:
    """Stop the master cleanly, promote `to`, and make the others follow it."""
    found = read_statuses(nodes)
    if to is not None and to not in nodes:
        raise ConfigurationError(f"{to!r} is not a node of this cluster")
    old = master_of(found)
    if old is None:
        raise ClusterError(f"no node is a master now: {list(nodes)}")
    new = to or _most_advanced(found)
    status = found.get(new) if new else None
    if new is None or status is None or not status.in_recovery:
        raise ClusterError(f"no running replica can take over: {new or list(nodes)}")
    if any(node.frozen for node in nodes):
        # The master's shutdown would wait for the frozen node until wal_sender_timeout.
        raise ClusterError(f"a node is frozen; thaw() it before a switchover: {list(nodes)}")
    old._stop("fast")
    new._promote()
    rest = [node for node in nodes if node not in {old, new} and node.running]
    with ThreadPoolExecutor(len(rest) + 1) as workers:
        done = [workers.submit(node._follow, new) for node in rest]
        done.append(workers.submit(old._rejoin, new))
        for each in done:
            each.result()
    return new
