"""The retry policy: how often a unit of work is tried, and how long that may take.

The pauses are exponential, each drawn from the whole range up to its limit ("full jitter"), so that
many clients that have failed at the same moment do not come back at the same moment.
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

That is two lines here rather than tenacity or stamina: both have a clock, a sleep and a source of
chance of their own, while a manager takes all time and chance from what it was handed, and the core
needs the standard library alone. What they are good at, deciding by an exception's class, is the
least of it: here it is decided by SQLSTATE and by how far the transaction had come.
"""

from dataclasses import dataclass
from random import Random

from hasql.cluster.checks import check_count, check_seconds

__all__ = ("RetryPolicy",)

#: Doublings after which no pause is shorter than the longest, whatever the user gives.
_ENOUGH = 60


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often `run` tries, and for how long. Durations are seconds.

    Args:
        attempts: How many of them may reach a server. Waiting for a host is none.
        seconds: For all of it: attempts, pauses, and waiting for a host. What is under way then is
            not interrupted; nothing is begun after that.
        first: The longest pause after the first failure; it doubles with each further one.
        longest: The longest of all pauses.

    Raises:
        ConfigurationError: A value that cannot work.
        TypeError: One of a wrong type.
    """

    attempts: int = 5
    seconds: float = 30.0
    first: float = 0.05
    longest: float = 2.0

    def __post_init__(self) -> None:
        check_count("attempts", self.attempts, minimum=1)
        check_seconds("seconds", self.seconds, positive=True)
        check_seconds("first", self.first)
        check_seconds("longest", self.longest)

    def pause(self, failures: int, chance: Random) -> float:
        """Return for how many seconds to wait after so many failures, which is at least one."""
        limit: float = min(self.longest, self.first * 2 ** min(failures - 1, _ENOUGH))
        return chance.uniform(0.0, limit)
