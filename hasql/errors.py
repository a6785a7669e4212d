"""The errors hasql raises; all of them are a `HasqlError`."""

__all__ = (
    "BreakerOpenError",
    "ConfigurationError",
    "HasqlError",
    "LeaseTerminatedError",
    "MissingExtraError",
    "NameResolutionError",
    "NotAvailableError",
    "OverloadedError",
    "PoolManagerClosedError",
    "RateLimitedError",
    "RolledBackError",
    "StaleReadError",
    "UnknownConnectionError",
    "WrongEventLoopError",
)


class HasqlError(Exception):
    """The root of every error that hasql itself raises.

    An error that a driver raises on a connection the application holds is passed on unchanged, and
    is not a `HasqlError`.
    """


class ConfigurationError(HasqlError, ValueError):
    """The arguments can never work, whatever the servers do: correct them."""


class NotAvailableError(HasqlError, TimeoutError):
    """No suitable host could serve in time.

    The message names every host, its state, how long it has been in that state, and its last error.
    It is a `TimeoutError`, and so an `asyncio.TimeoutError`, with every driver.
    """

    #: Whether hosts could serve, but all connections that they may have open were in use.
    exhausted = False


class OverloadedError(NotAvailableError):
    """Admission sheds load: too many acquires wait already, or this one waited too long.

    Try later, or do less at once. The message says how many leases are out, and how many may be.
    """


class RateLimitedError(NotAvailableError):
    """The rate that the manager allows is used up, and waiting would outlast the deadline.

    It is also raised when so many others ask the storage of the rate that this acquire did not get
    its turn before the deadline.

    Attributes:
        seconds: After how many seconds there is a token again, not counting what others take
            meanwhile. If the acquire did not get its turn: how long it has waited for it.
    """

    def __init__(self, message: str = "", seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class BreakerOpenError(NotAvailableError):
    """The breaker refuses acquires of a master: too many have failed in a row."""


class LeaseTerminatedError(HasqlError, ConnectionError):
    """A lease was out for longer than `leak_threshold`, so hasql broke its connection.

    Raised at the end of the lease's block, unless the block already ends with an error. Whatever
    the block had not committed when the connection was broken is lost.
    """


class PoolManagerClosedError(HasqlError):
    """The pool manager is closing or closed and hands out no more connections."""


class RolledBackError(HasqlError):
    """The server rolled a unit of work back, because it went on after an error that it caught.

    A statement that fails aborts its transaction, even if the application catches the error. Let
    the error leave the work, or put the statement into a savepoint.
    """


class StaleReadError(HasqlError):
    """What a session would write was computed from data of a replica that is out of date.

    The message names the object and the attributes that differ. Treat it as a conflict with another
    transaction: roll back and do the work again, or let `sessions.run` do that.
    """


class UnknownConnectionError(HasqlError, ValueError):
    """The connection or pool does not belong to this manager, or was already given back."""


class WrongEventLoopError(HasqlError, RuntimeError):
    """The manager was started in another event loop, or before a fork: make one for each."""


class MissingExtraError(HasqlError, ImportError):
    """A required library is not installed; the message names the extra that installs it."""


class NameResolutionError(HasqlError, OSError):
    """A name could not be resolved: no nameserver gave a usable answer, and no old one may serve.

    The message names the host, the nameservers asked, and what each of them said.
    """
