"""Breaks the connections of a node, and marks their leases in the book.

The order matters, because threads give connections back meanwhile. First the leases are marked: a
release that begins after that breaks its connection. Then the connections whose release has already
begun are broken. Then the pool breaks what it has, including connections that have come back since:
some adapters no longer find those by their leases.
"""

from hasql._leasing.book import LeaseBook
from hasql._routing.node import Node
from hasql.driver import ConnT, PoolT

__all__ = ("leave_addresses", "purge")


def purge(node: Node[PoolT, ConnT], book: LeaseBook[PoolT, ConnT]) -> None:
    """Let none of a node's connections be used again; lent ones are broken when given back."""
    lent = book.expire(node)
    book.abort(node, returning_only=True)  # the application is done with these
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
    """Stop using a node's connections to addresses that its name no longer leads to.

    Idle connections are closed at once, lent ones when they are given back.

    If the name has just `left` an address, connects that are under way are ended, too: no open
    connection shows where they lead. If the reserved connection has `moved`, the node offers
    nothing until a probe is answered. That holds even if no connection is open, because the next
    acquire to connect would be the first to meet the server that is there now.
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
    book.abort(node, returning_only=True, which=leads_away)  # the application is done with these
    pool.drain(lent, has_left)
