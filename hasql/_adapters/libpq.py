"""What the adapters over libpq share: those of psycopg 3 and psycopg2, and those built on them."""

import asyncio
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from hasql._adapters.reserved_session import proxy_options, session_options
from hasql.driver import Failure

__all__ = (
    "code_of_limit",
    "ended_by_limit",
    "failure_to_connect",
    "parameters_of_pool",
    "parameters_of_session",
    "shut_down",
    "stop_listening",
)

# When a server refuses a login, libpq passes on the message without its SQLSTATE, so a refusal is
# recognised by PostgreSQL's English words. A refusal in another language (lc_messages) counts as a
# broken host. That is harmless: it only makes `ready` give up later.
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
    "|parameter .* cannot be changed"
    "|permission denied to set parameter"
    "|--.* requires a value"
    "|invalid command-line argument for server process"
    "|server does(n't| not) support (SSL|GSSAPI)"
    "|certificate verify failed"
    "|server certificate for .* does not match host name"
    "|could not get server's host name from server certificate"
    "|alert (bad certificate|unknown ca|(certificate|handshake|protocol) [a-z]+)"
    "|connection requires a valid client certificate"
    "|server (accepted connection without a valid|did not request an) SSL certificate"
    "|authentication method requirement .* failed"
    "|channel binding (is )?required"
)
# Errors that libpq itself, or psycopg before it calls libpq, finds in the arguments. Most are found
# before a server is contacted; those about certificates only during the TLS negotiation, because
# libpq does not open certificates sooner. The words are those of libpq 15 to 18.
_MISCONFIGURED = re.compile(
    "invalid (connection option|URI query parameter)"
    '|invalid "?[a-z_]+"? value: '
    "|invalid integer value .* for connection option"
    "|bad value for connect_timeout"
    "|definition of service .* not found"
    "|service file .* not found"
    "|service file .*, line [0-9]+"
    "|value .* invalid when (SSL|GSSAPI) support is not compiled in"
    "|weak sslmode .* may not be used"
    "|invalid SSL protocol version range"
    "|root certificate (file|paths)"
    "|could not (open|read) certificate file"
    "|certificate present, but not private key file"
    "|certificate does not match private key file"
    "|private key file .*(has group or world access|is not a regular file)"
    "|could not (load|read|stat|access) private (SSL )?key"
    "|could not (load|initialize) SSL engine"
    "|require_auth method"
    "|channel binding not supported by this build"
    "|GSSAPI encryption required but (no|it|was)"
    "|invalid SCRAM (client|server) key"
    "|local user with ID"
)
_KEEPALIVES = {
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""Parameters that libpq is given unless the user gives other values.

A firewall may forget one connection and drop its packets for good, while the packets of other
connections to the same host get through. No probe shows that, and by default the kernel goes on
trying for a quarter of an hour. With these parameters the kernel ends the connection ten seconds
after a packet that stayed unanswered, or after eleven seconds of silence.
"""
_NO_CHOICE = {"hostaddr": "", "load_balance_hosts": "disable", "target_session_attrs": "any"}
"""Parameters that keep environment variables and service files from choosing address or role."""
#: Parameters of the application's sessions that are not part of a login: a reserved session does
#: not take them over.
_OF_SESSIONS = frozenset({"client_encoding", "options", "replication"})
_LIMIT = re.compile("terminating connection due to (idle-session|idle-in-transaction|transaction)")
_LIMIT_CODES = {"idle-session": "57P05", "idle-in-transaction": "25P03", "transaction": "25P04"}
_FULL = re.compile("too many (clients|connections)|remaining connection slots|no more connections")


def parameters_of_pool(given: Mapping[str, str], knows: Callable[[str], bool]) -> dict[str, str]:
    """Return the parameters of a connection for the application: the given ones, and hasql's.

    `knows` tells whether this libpq has a parameter: `load_balance_hosts` came with libpq 16.
    """
    choice = {name: value for name, value in _NO_CHOICE.items() if knows(name)}
    return {**_KEEPALIVES, **choice, **given}


def parameters_of_session(
    given: Mapping[str, str], knows: Callable[[str], bool], *, with_settings: bool
) -> dict[str, str]:
    """Return the parameters of a reserved connection.

    The session takes nothing from the environment except what libpq always sends: the styles of
    dates and times (``PGDATESTYLE``, ``PGTZ``) and the planner's ``PGGEQO``.
    """
    login = {name: value for name, value in given.items() if name not in _OF_SESSIONS}
    options = proxy_options(given.get("options", ""))
    settings = session_options(options, with_settings=with_settings)
    return {**parameters_of_pool(login, knows), "client_encoding": "UTF8", "options": settings}


def failure_to_connect(message: str) -> Failure:
    """Derive from libpq's message why a connect failed."""
    if _MISCONFIGURED.search(message):
        return Failure.MISCONFIGURED
    if _REFUSED.search(message):
        return Failure.REFUSED
    if _FULL.search(message):
        return Failure.FULL
    return Failure.of_pooler(message) or Failure.BROKEN


def code_of_limit(message: str) -> str:
    """Return the SQLSTATE of the limit that ended a session, read from the message; empty: none."""
    said = _LIMIT.search(message)
    return _LIMIT_CODES[said[1]] if said else ""


def ended_by_limit(notices: Sequence[str]) -> bool:
    """Tell whether the last notice of a server, or a pooler, says that a limit ends the session.

    libpq treats whatever the server says on an idle connection as a notice.
    """
    said = notices[-1] if notices else ""
    return bool(code_of_limit(said)) or Failure.of_pooler(said) is Failure.LIMIT


def shut_down(fileno: int) -> None:
    """Shut a connection's socket down at once, without a word to the server.

    A task that waits for the socket wakes up, and libpq finds the connection lost. Closing the
    socket is left to the driver, whose event loop still watches the descriptor.
    """
    with suppress(OSError), socket.socket(fileno=os.dup(fileno)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


def stop_listening(fileno: int) -> None:
    """Make the event loop forget a socket, which may already be closed."""
    loop = asyncio.get_running_loop()
    for forget in (loop.remove_reader, loop.remove_writer):
        with suppress(OSError):  # the kernel forgot it when the socket was closed
            forget(fileno)
