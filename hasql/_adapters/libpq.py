"""What the adapters over libpq share: psycopg 3, psycopg2, and what is built on them."""

import os
import re
import socket
from contextlib import suppress

from hasql.driver import Failure

__all__ = ("WATCH_OVER_TCP", "failure_to_connect", "shut_down")

# libpq passes on what a server says to a login without its SQLSTATE, so the words have to do: those
# of PostgreSQL in English. In another language (lc_messages) a refusal counts as a broken host,
# which is right but for how soon `ready` gives up.
_REFUSED = re.compile(
    "authentication failed"
    "|no pg_hba.conf entry"
    "|pg_hba.conf rejects"
    "|no password supplied"
    '|role ".*" (does not exist|is not permitted to log in)'
    '|database ".*" (does not exist|is not currently accepting connections)'
    "|permission denied for database"
    "|unrecognized configuration parameter"
    "|invalid value for parameter"
    "|invalid (connection option|URI query parameter)"
)
WATCH_OVER_TCP = {
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""What libpq is asked for unless the user asks for something else.

A flow of packets may be lost on its way for good while others to the same host get through, as when
a firewall forgets it. No probe shows that, and the kernel, by itself, goes on for a quarter of an
hour: this way ten seconds after an unanswered packet, or eleven of silence, it ends the connection.
"""
_FULL = re.compile("too many (clients|connections)|remaining connection slots|no more connections")


def failure_to_connect(message: str) -> Failure:
    """Read why a connect failed from what libpq says of it."""
    if _REFUSED.search(message):
        return Failure.REFUSED
    if _FULL.search(message):
        return Failure.FULL
    return Failure.of_pooler(message) or Failure.BROKEN


def shut_down(fileno: int) -> None:
    """Break the connection behind a socket at once, without a word to the server.

    Whoever waits for the socket is woken, and libpq finds the connection lost; closing it is left
    to the driver, which still has the descriptor in its event loop.
    """
    with suppress(OSError), socket.socket(fileno=os.dup(fileno)) as twin:
        twin.shutdown(socket.SHUT_RDWR)
