"""The lifecycle of connections: how old they may become, and leases that are never given back."""

from dataclasses import dataclass
from typing import Literal

from hasql.cluster.checks import check_flag, check_seconds, check_share
from hasql.errors import ConfigurationError

__all__ = ("Lifecycle",)

_ACTIONS = ("report", "terminate")


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """How connections age, and what is said of a lease that is out for too long.

    All durations are seconds. A connection in use is never closed for its age, and by
    ``leak_action="terminate"`` alone for being out for too long.

    Args:
        max_lifetime: A connection that is older is closed when it is idle, or given back. None:
            as the driver's pool does.
        max_idle: One that was not used for so long is closed. None: as the driver's pool does.
        check_idle: One that was not used for so long is asked for a sign of life, and closed
            without one: so a firewall does not forget it. None: idle connections are left alone.
        jitter: The share, 0 to 1, by which each of these is shortened at random at most, so that
            not all connections end at the same moment.
        leak_threshold: A lease that is out for longer is reported, once. None: none is.
        leak_action: What happens to it: ``"report"``, or ``"terminate"``, which breaks its
            connection, too.
        stacks: Whether reports and `leases` tell where in the code a connection was acquired: the
            innermost 16 calls.

    Raises:
        ConfigurationError: A value that cannot work; a ValueError.
        TypeError: A value of a wrong type.
    """

    max_lifetime: float | None = None
    max_idle: float | None = None
    check_idle: float | None = None
    jitter: float = 0.1
    leak_threshold: float | None = None
    leak_action: Literal["report", "terminate"] = "report"
    stacks: bool = False

    def __post_init__(self) -> None:
        for name in ("max_lifetime", "max_idle", "check_idle", "leak_threshold"):
            if (seconds := getattr(self, name)) is not None:
                check_seconds(name, seconds, positive=True)
        check_share("jitter", self.jitter)
        if self.leak_action not in _ACTIONS:
            msg = f"leak_action must be 'report' or 'terminate', not {self.leak_action!r}"
            raise ConfigurationError(msg)
        if self.leak_action == "terminate" and self.leak_threshold is None:
            raise ConfigurationError(
                "leak_action='terminate' needs leak_threshold, the seconds after which a lease is "
                "terminated"
            )
        check_flag("stacks", self.stacks)
