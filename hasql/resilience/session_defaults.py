"""Session defaults: what each connection of a manager is set to."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ("SessionDefaults",)


@dataclass(frozen=True, slots=True)
class SessionDefaults:
    """What each connection is set to. Durations are seconds."""

    statement_timeout: float | None = None
    lock_timeout: float | None = None
    idle_in_transaction_timeout: float | None = None
    application_name: str | None = None
    search_path: Sequence[str] | None = None
    enforce_read_only: bool = False
