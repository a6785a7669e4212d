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

    What a driver raises on a connection that the application holds is passed on as the driver
    raised it and is not a `HasqlError`.
    """


class ConfigurationError(HasqlError, ValueError):
    """What was asked for can never work, whatever the servers do: mend the arguments."""


class NotAvailableError(HasqlError, TimeoutError):
    """No suitable host could serve in time.

    The message names every host, its state, since when it is so, and its last error. It is a
    `TimeoutError`, and so an `asyncio.TimeoutError`, with every driver.
    """

    #: Whether hosts could serve, and all connections that they may have open were in use.
    exhausted = False


class OverloadedError(NotAvailableError):
    """Admission sheds load: too many acquires wait already, or this one has waited in vain.

    Try later, or do less at once. The message says how many are out, and how many may be.
    """


class RateLimitedError(NotAvailableError):
    """The rate that the manager allows is used up, and waiting would outlast the deadline.

    Or so many others have asked the storage of the rate that it was not this one's turn by then.

    Attributes:
        seconds: After how many seconds there is a token again; what others take meanwhile is not
            known. Where it was not its turn, how long it has waited for that.
    """

    def __init__(self, message: str = "", seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class BreakerOpenError(NotAvailableError):
    """The breaker stops acquires of a master: too many have failed in a row."""


class LeaseTerminatedError(HasqlError, ConnectionError):
    """A lease was out for longer than `leak_threshold`, and its connection was broken for that.

    Raised at the end of its block, unless that ends with an error already: what the block has not
    committed by then is lost.
    """


class PoolManagerClosedError(HasqlError):
    """The pool manager is closing or closed and hands out no more connections."""


class RolledBackError(HasqlError):
    """A unit of work was rolled back by the server: it went on after an error that it has caught.

    A statement that fails spoils its transaction, also where the application catches the error. Let
    the error out of the work, or put the statement into a savepoint.
    """


class StaleReadError(HasqlError):
    """What a session is to write was computed from what a replica has shown, which is past.

    The message names the object and the attributes that differ. It is a conflict with another
    transaction: roll back and do the work again, or have `sessions.run` do that.
    """


class UnknownConnectionError(HasqlError, ValueError):
    """The connection or pool does not belong to this manager, or was given back already."""


class WrongEventLoopError(HasqlError, RuntimeError):
    """The manager was started in another event loop, or before a fork; make one for each."""


class MissingExtraError(HasqlError, ImportError):
    """A library that this needs is not installed; the message names the extra that brings it."""


class NameResolutionError(HasqlError, OSError):
    """A name leads nowhere: no nameserver gave a good answer, and no old one may serve.

    The message names the host, the servers asked, and what each said.
    """
