"""The groups of settings: each group stands for one argument of a pool manager."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from hasql.resilience import Admission, Breaker, Lifecycle, RateLimit, SessionDefaults
from hasql.settings.fields import (
    Count,
    NamesOrNone,
    OrNone,
    PositiveCount,
    PositiveSeconds,
    Reference,
    Seconds,
    Share,
    found_at,
    in_seconds,
)

__all__ = (
    "AdmissionGroup",
    "BreakerGroup",
    "Group",
    "LifecycleGroup",
    "RateLimitGroup",
    "SessionGroup",
)


class Group(BaseModel):
    """Settings that together make one argument of a pool manager."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    _argument: ClassVar[type[Any]]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        """Accept the argument itself as well, such as an `Admission`."""
        if isinstance(value, cls._argument):
            return {field.name: getattr(value, field.name) for field in fields(cls._argument)}
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self._argument(**self._values())
        except (TypeError, ValueError) as error:
            said = str(error)
            # The message leaves the value out: it may be a password set in the wrong place.
            raise ValueError(said.rpartition(", not ")[0] or said) from None
        return self

    def _values(self) -> dict[str, Any]:
        return dict(self)

    def argument(self) -> Any:  # noqa: ANN401  # each group has its own
        """Make the argument.

        Raises:
            ConfigurationError: There is no object where a ``"module:name"`` leads.
        """
        return self._argument(**self._values())


class SessionGroup(Group):
    """The settings that each connection gets: see `hasql.resilience.SessionDefaults`."""

    _argument = SessionDefaults

    statement_timeout: Annotated[Seconds | None, OrNone] = in_seconds(
        None, "How long a statement may take."
    )
    lock_timeout: Annotated[Seconds | None, OrNone] = in_seconds(
        None, "How long a statement may wait for a lock."
    )
    idle_in_transaction_timeout: Annotated[Seconds | None, OrNone] = in_seconds(
        None, "How long a transaction may be idle before its session is ended."
    )
    application_name: str | None = Field(
        default=None, description="What the sessions are called in `pg_stat_activity`."
    )
    search_path: Annotated[tuple[str, ...] | None, NoDecode, NamesOrNone] = Field(
        default=None, description="Schemas in which names are looked up, separated by commas."
    )
    enforce_read_only: bool = Field(
        default=False, description="Whether connections for reading are read-only on a master, too."
    )


class LifecycleGroup(Group):
    """How old connections may become, and leaked leases: see `hasql.resilience.Lifecycle`."""

    _argument = Lifecycle

    max_lifetime: Annotated[PositiveSeconds | None, OrNone] = in_seconds(
        None, "A connection that is older than this is closed."
    )
    max_idle: Annotated[PositiveSeconds | None, OrNone] = in_seconds(
        None, "A connection that was not used for this time is closed."
    )
    check_idle: Annotated[PositiveSeconds | None, OrNone] = in_seconds(
        None, "How often an idle connection is asked for a sign of life."
    )
    jitter: Share = Field(
        default=0.1, description="The share by which each of these is shortened at random at most."
    )
    leak_threshold: Annotated[PositiveSeconds | None, OrNone] = in_seconds(
        None, "A lease that is out for longer than this is reported."
    )
    leak_action: Literal["report", "terminate"] = Field(
        default="report", description="Whether its connection is broken then, too."
    )
    stacks: bool = Field(
        default=False, description="Whether reports tell where a connection was acquired."
    )


class AdmissionGroup(Group):
    """How many leases there may be at once: see `hasql.resilience.Admission`."""

    _argument = Admission

    limit: PositiveCount = Field(description="How many leases there may be at once.")
    replica_limit: Annotated[PositiveCount | None, OrNone] = Field(
        default=None, description="How many leases of replicas, which are then counted apart."
    )
    queue: Count = Field(default=100, description="How many acquires may wait.")
    adaptive: bool = Field(
        default=False, description="Whether the limit moves with the latency that is measured."
    )
    reserve: Share = Field(
        default=0.1, description="The share of the places kept for critical work."
    )


class RateLimitGroup(Group):
    """The rate of acquires: see `hasql.resilience.RateLimit`."""

    _argument = RateLimit

    rate: str = Field(default="100/second", description="How many acquires there may be in a time.")
    strategy: Literal["token-bucket", "moving-window", "fixed-window", "sliding-window-counter"] = (
        Field(default="token-bucket", description="How the rate is counted.")
    )
    storage: SecretStr = Field(
        default=SecretStr("memory://"),
        description="Where the rate is counted; a URL of Redis is for all processes.",
    )
    key: Annotated[Callable[[], str] | str | None, Reference] = Field(
        default=None, description="A callable; each str that it returns has a rate of its own."
    )
    wait: bool = Field(default=True, description="Whether an acquire waits for its token.")
    on_storage_error: Literal["allow", "refuse"] = Field(
        default="allow", description="What happens to acquires while the storage fails."
    )

    def _values(self) -> dict[str, Any]:
        # `key` is left out: the object it refers to is imported only when it is needed.
        return {**self.model_dump(exclude={"key"}), "storage": self.storage.get_secret_value()}

    def argument(self) -> Any:  # noqa: ANN401  # each group has its own
        """Make the argument.

        Raises:
            ConfigurationError: There is no object where `key` leads.
        """
        return replace(super().argument(), key=found_at("rate_limit.key", self.key))


class BreakerGroup(Group):
    """When acquires of a master are refused at once: see `hasql.resilience.Breaker`."""

    _argument = Breaker

    threshold: PositiveCount = Field(
        default=5, description="After this many infrastructure errors in a row it opens."
    )
    recovery: Seconds = in_seconds(30.0, "After this time one trial goes through.")
