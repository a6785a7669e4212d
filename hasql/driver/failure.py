"""What an exception says about the server, as far as routing is concerned."""

import re
from enum import Enum

from hasql.errors import ConfigurationError

__all__ = ("Failure", "SessionLimitError")


class Failure(Enum):
    """What an exception says about the server, as far as routing is concerned."""

    #: The connection, or the way to the host, is gone.
    BROKEN = "broken"
    #: The server refuses this login or database name, has no TLS although we ask for it, or has a
    #: certificate that does not verify; waiting does not cure it.
    REFUSED = "refused"
    #: The arguments for connecting cannot work on any host: a misspelt `sslmode`, a certificate
    #: file that is not there. No server was asked.
    MISCONFIGURED = "misconfigured"
    #: The server has no connection slot left for us.
    FULL = "full"
    #: A write met a server, or a transaction, that does not write.
    READ_ONLY = "read only"
    #: The session has reached a limit of its own: for being idle, or for a transaction.
    LIMIT = "limit"
    #: The server rejected the statement.
    STATEMENT = "statement"
    #: Nothing about the server's role or health.
    OTHER = "other"

    @property
    def lasts(self) -> bool:
        """Whether waiting does not cure it.

        A statement that hasql itself sends, such as a setting that the server does not know
        (42704), is refused for good like a login.
        """
        return self in _LASTING

    @classmethod
    def of_sqlstate(cls, sqlstate: str, message: str = "") -> "Failure":
        """Read an error code of the server; if a pooler uses it for everything, read its words.

        https://www.postgresql.org/docs/current/errcodes-appendix.html
        """
        if sqlstate == "08P01":
            return cls.of_pooler(message) or cls.BROKEN
        if sqlstate in _BY_CODE:
            return _BY_CODE[sqlstate]
        if sqlstate.startswith("57P"):
            return cls.BROKEN
        return _BY_CLASS.get(sqlstate[:2], cls.STATEMENT)

    @classmethod
    def of_pooler(cls, message: str) -> "Failure | None":
        """Read the words of PgBouncer, which uses 08P01 for nearly everything. None: not known.

        PostgreSQL uses it as well, when a pooler has mixed up prepared statements.
        """
        return next((what for words, what in _BY_WORDS if words.search(message)), None)

    @classmethod
    def of_exception(cls, error: BaseException) -> "Failure":
        """Read an exception that is not one of the driver's own."""
        if isinstance(error, ConfigurationError):
            return cls.MISCONFIGURED
        if isinstance(error, SessionLimitError):
            return cls.LIMIT
        # TimeoutError is what asyncio and the drivers raise for a host that stays silent; a
        # name that does not resolve (socket.gaierror) is an OSError like any other.
        return cls.BROKEN if isinstance(error, OSError) else cls.OTHER


class SessionLimitError(Exception):
    """A driver reports with it that a session has reached a limit of its own while unused.

    Code that uses the connection later may only be told by the library that it is closed.
    """


_LASTING = frozenset({Failure.REFUSED, Failure.MISCONFIGURED, Failure.STATEMENT})
_BY_WORDS = [
    (
        re.compile("query_wait_timeout|no more connections allowed|too many connections"),
        Failure.FULL,
    ),
    (re.compile("no such (database|user)|(SASL|password) authentication failed"), Failure.REFUSED),
    (re.compile("client_idle_timeout|idle transaction timeout|query timeout"), Failure.LIMIT),
    (re.compile("^(bind|portal|invalid message|insufficient data)"), Failure.STATEMENT),
]
_BY_CODE = {
    "25006": Failure.READ_ONLY,
    "25P03": Failure.LIMIT,
    "25P04": Failure.LIMIT,
    "53300": Failure.FULL,
    "57P05": Failure.LIMIT,
}
_BY_CLASS = {
    "08": Failure.BROKEN,
    "28": Failure.REFUSED,
    "3D": Failure.REFUSED,
    # Short of resources, interrupted, or in trouble with its system: nothing about its role.
    "53": Failure.OTHER,
    "57": Failure.OTHER,
    "58": Failure.OTHER,
}
