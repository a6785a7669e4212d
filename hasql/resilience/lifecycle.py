"""The lifecycle of connections: how old they may become, and how long a lease may be out."""

from dataclasses import dataclass
from typing import Literal

from hasql.cluster.checks import check_flag, check_seconds, check_share
from hasql.errors import ConfigurationError

__all__ = ("Lifecycle",)

_ACTIONS = ("report", "terminate")


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """How old connections may become, and what happens to a lease that is out for too long.

    All durations are seconds. A connection in use is never closed for its age. It is broken for
    being out for too long only with ``leak_action="terminate"``.

    Args:
        max_lifetime: A connection that is older than this is closed when it is idle or given back.
            None: the driver's pool decides.
        max_idle: A connection that was not used for this long is closed. None: the driver's pool
            decides.
        check_idle: A connection that was not used for this long is tested for a sign of life, and
            closed if it gives none. This also keeps firewalls from forgetting it. None: idle
            connections are not tested.
        jitter: Each of these limits is shortened at random, for each connection, by at most this
            share (0 to 1), so that not all connections end at the same moment.
        leak_threshold: A lease that is out for longer than this is reported, once. None: no lease
            is reported.
        leak_action: What happens to such a lease: ``"report"``, or ``"terminate"``, which also
            breaks its connection.
        stacks: Whether reports and `leases` tell where in the code a connection was acquired, as
            the innermost 16 calls.

    Raises:
        ConfigurationError: A value cannot work. It is a ValueError.
        TypeError: A value has the wrong type.
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
