"""The lifecycle of connections: how old they may become, and leases that are never given back."""

from dataclasses import dataclass

__all__ = ("Lifecycle",)


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """How connections age, and what is said of a lease that is out for too long."""

    max_lifetime: float | None = None
    max_idle: float | None = None
    check_idle: float | None = None
    jitter: float = 0.1
    leak_threshold: float | None = None
    leak_action: str = "report"
    stacks: bool = False
