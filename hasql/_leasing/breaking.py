"""The breaking of a node's connections, and what the book is to know of it.

In this order, as threads give connections back meanwhile. First leases are marked: whoever begins
to give one back after that breaks it. Then what is being given back already is broken. Then the
pool breaks what it has: also what has come back since, which some adapters find by its lease no
more.
"""

from hasql._leasing.book import LeaseBook
from hasql._routing.node import Node
from hasql.driver import ConnT, PoolT

__all__ = ("leave_addresses", "purge")


def purge(node: Node[PoolT, ConnT], book: LeaseBook[PoolT, ConnT]) -> None:
    """Let none of a node's connections be used again; what is lent ends when it is given back."""
    lent = book.expire(node)
    book.abort(node, returning_only=True)  # nobody uses it any more
    if node.pool is not None:
        node.pool.purge(lent)
    if not node.in_routing:
        node.mark_cold()


def leave_addresses(
    node: Node[PoolT, ConnT],
    book: LeaseBook[PoolT, ConnT],
    *,
    left: bool = False,
    moved: bool = False,
) -> None:
    """Let none of a node's connections be used again that lead where its name leads no more.

    What is idle is closed at once, and what is lent when it is given back.

    If the name has just `left` an address, connects to there end that are under way, which no open
    connection tells of. If the reserved connection has `moved`, the node offers nothing until a
    probe is answered: also with nothing open, as whoever connects is the first to meet what is
    there now.
    """
    if moved:
        node.hold_until_answer()
    pool, has_left = node.pool, node.endpoint.has_left
    if pool is None:
        return
    if left:
        pool.end_connects()
    if not any(map(has_left, pool.destinations.addresses())):
        return
    known = pool.destinations

    def leads_away(connection: ConnT) -> bool:
        return has_left(known.address_of(pool.key(connection)))

    lent = book.expire(node, leads_away)
    book.abort(node, returning_only=True, which=leads_away)  # as above
    pool.drain(lent, has_left)
