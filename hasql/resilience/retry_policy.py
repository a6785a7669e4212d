"""The retry policy: how often a unit of work is tried, and how long that may take.

The pauses grow exponentially, and each is drawn from the whole range up to its limit ("full
jitter"), so that many clients that failed at the same moment do not come back at the same moment.
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

Two lines here do this, rather than tenacity or stamina. Both libraries bring a clock, a sleep and
a random source of their own, while a manager takes all time and chance from what it was handed, and
the core needs only the standard library. They are good at deciding by an exception's class, which
helps little here: hasql decides by SQLSTATE and by how far the transaction had got.
"""

from dataclasses import dataclass
from random import Random

from hasql.cluster.checks import check_count, check_seconds

__all__ = ("RetryPolicy",)

#: At most so many doublings: by then any realistic `first` has reached the longest pause.
_ENOUGH = 60


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often `run` tries, and for how long. Durations are seconds.

    Args:
        attempts: How many attempts may reach a server. Waiting for a host is not an attempt.
        seconds: The time for the whole run: attempts, pauses, and waiting for a host. When it is
            over, what is under way is not interrupted, but nothing new is begun.
        first: The upper limit of the pause after the first failure. The limit doubles with each
            further failure.
        longest: The upper limit of every pause.

    Raises:
        ConfigurationError: A value cannot work.
        TypeError: A value has the wrong type.
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
        """Return how many seconds to wait after the given number of failures, at least one."""
        limit: float = min(self.longest, self.first * 2 ** min(failures - 1, _ENOUGH))
        return chance.uniform(0.0, limit)
