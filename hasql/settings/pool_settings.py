"""The settings of a pool manager."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from hasql.balancer_policy import BaseBalancerPolicy
from hasql.discovery import Discovery
from hasql.dns import Resolver
from hasql.errors import ConfigurationError
from hasql.resilience.options import Credentials
from hasql.settings.fields import (
    Names,
    OrNone,
    PositiveCount,
    PositiveSeconds,
    Reference,
    Seconds,
    Share,
    found_at,
    in_seconds,
    made_by,
)
from hasql.settings.groups import (
    AdmissionGroup,
    BreakerGroup,
    Group,
    LifecycleGroup,
    RateLimitGroup,
    SessionGroup,
)

if TYPE_CHECKING:
    from pydantic_core import InitErrorDetails

__all__ = ("Settings",)

_HIDDEN: Final = "(hidden)"


class Settings(BaseSettings):
    """All arguments of a pool manager, for `PoolManager.from_settings`.

    Values given in code take precedence, then come the environment (``HASQL_DSN``, or for a
    setting in a group ``HASQL_SESSION__STATEMENT_TIMEOUT``), a ``.env`` file named as in
    ``Settings(_env_file=".env")``, and a TOML file (see `of_toml`). A subclass may name its files,
    ``class AppSettings(Settings, env_file=".env")``, and add settings of its own.

    Callables and objects can also be given as ``"module:name"``, which is imported when a manager
    is made. Names are given as a list, or separated by commas. ``none`` stands for None.

    Raises:
        ValidationError: pydantic's own, a ValueError, for impossible values and for unknown names:
            in code and files, and in the environment under the name of a group. The error does not
            show any value.
    """

    model_config = SettingsConfigDict(
        env_prefix="HASQL_",
        env_nested_delimiter="__",
        # Other programs may keep their variables in the same file.
        dotenv_filtering="match_prefix",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )

    dsn: SecretStr = Field(
        default=..., description="One URL or keyword/value string that names all hosts."
    )
    acquire_timeout: PositiveSeconds = in_seconds(
        1.0, "How long one acquire may take: waiting, choosing, connecting, retrying."
    )
    refresh_delay: PositiveSeconds = in_seconds(
        1.0, "The time between two probes of a host while nothing happens."
    )
    refresh_timeout: PositiveSeconds = in_seconds(
        1.0, "After this time a silent host leaves routing."
    )
    fallback_master: bool = Field(
        default=False,
        description="Whether `acquire_replica` may use a master when no replica is in routing.",
    )
    master_as_replica_weight: Share = Field(
        default=0.0, description="Probability that `acquire_replica` goes to a master."
    )
    balancer_policy: Annotated[type[BaseBalancerPolicy] | BaseBalancerPolicy | str, Reference] = (
        Field(
            default="hasql.balancer_policy:GreedyBalancerPolicy",
            description="How one of several candidates is picked.",
        )
    )
    stopwatch_window_size: PositiveCount = Field(
        default=128,
        description="Over how many probes a host's median response time is taken.",
        json_schema_extra={"unit": "probes"},
    )
    pool_factory_kwargs: dict = Field(  # type: ignore[type-arg]  # so that JSON is read in it
        default_factory=dict,
        repr=False,
        description="For the driver's pool; in the environment as JSON, or `…__MAX_SIZE` and such.",
    )
    lease_abort_after: Annotated[Seconds | None, OrNone] = in_seconds(
        10.0, "After this time without any answer of a host, its leases are broken."
    )
    release_timeout: PositiveSeconds = in_seconds(
        5.0, "How long giving a connection back may take."
    )
    fencing: bool = Field(
        default=True, description="Whether a master that a newer timeline has replaced is refused."
    )
    allow_several_clusters: bool = Field(
        default=False, description="Whether hosts may have different system identifiers."
    )
    never_master: Annotated[tuple[str, ...], NoDecode, Names] = Field(
        default=(), description="Hosts that are never used as a master, separated by commas."
    )
    follow_names: bool = Field(
        default=True, description="Whether to end connections to addresses that a name has left."
    )
    resolver: Annotated[Resolver | Callable[[], Resolver] | str | None, Reference] = Field(
        default=None, description="What looks names up, or a callable that makes it."
    )
    discovery: Annotated[Discovery | Callable[[], Discovery] | str | None, Reference] = Field(
        default=None, description="Where the hosts come from, or a callable that makes it."
    )
    session: SessionGroup | None = Field(
        default=None, description="What each connection is set to: limits, search path and such."
    )
    credentials: Annotated[Credentials | str | None, Reference] = Field(
        default=None, description="A callable, asked for the password of each new connection."
    )
    lifecycle: LifecycleGroup | None = Field(
        default=None, description="How old connections become, and what is said of leaks."
    )
    admission: AdmissionGroup | None = Field(
        default=None, description="How many leases there may be at once, and who waits."
    )
    rate_limit: RateLimitGroup | None = Field(
        default=None, description="How many acquires there may be in a time."
    )
    breaker: BreakerGroup | None = Field(
        default=None, description="When acquires of a master are refused at once."
    )
    report_every: Annotated[PositiveSeconds | None, OrNone] = in_seconds(
        None, "The time between two log records on the pools."
    )

    def __init__(self, **values: Any) -> None:  # noqa: ANN401  # of any field's type
        try:
            super().__init__(**values)
        except ValidationError as error:
            hidden = _without_values(error)
        else:
            return
        raise hidden

    @classmethod
    def of_toml(cls, path: str | os.PathLike[str], *table: str, **values: Any) -> Self:  # noqa: ANN401  # as above
        """Read a TOML file, or one table of it; the environment takes precedence over it.

        Args:
            path: The path of the file.
            table: The names that lead to the table, such as ``"tool", "hasql"``. Without any the
                whole file is read.
            values: Values that take precedence over all others, as with ``Settings(…)``.

        Raises:
            ValidationError: See `Settings`.
            ConfigurationError: The file has no such table.
            OSError: The file cannot be read.
        """
        Path(path).open("rb").close()  # else a missing file would count as an empty one
        config = SettingsConfigDict(toml_file=Path(path), toml_table_header=table)
        of_file: type[Self] = type(cls.__name__, (cls,), {"model_config": config})
        try:
            return of_file(**values)
        except KeyError:
            raise ConfigurationError(f"{path} has no table {'.'.join(table)}") from None

    @classmethod
    def settings_customise_sources(  # noqa: D102  # pydantic's
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls)
        return init_settings, env_settings, dotenv_settings, toml, file_secret_settings

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of a pool manager.

        Raises:
            ConfigurationError: There is no object where a ``"module:name"`` leads.
        """
        given = {name: getattr(self, name) for name in Settings.model_fields}
        given["dsn"] = self.dsn.get_secret_value()
        given["pool_factory_kwargs"] = self.pool_factory_kwargs or None
        given["balancer_policy"] = found_at("balancer_policy", self.balancer_policy)
        given["credentials"] = found_at("credentials", self.credentials)
        given["resolver"] = made_by("resolver", self.resolver, Resolver)
        given["discovery"] = made_by("discovery", self.discovery, Discovery)
        for name, value in given.items():
            if isinstance(value, Group):
                given[name] = value.argument()
        return given


def _without_values(error: ValidationError) -> ValidationError:
    """Return the same error without the values given: one of them may be a password."""
    details: list[InitErrorDetails] = [
        {
            "type": each["type"],
            "loc": each["loc"],
            "input": _HIDDEN,
            "ctx": each.get("ctx", {}),
        }
        for each in error.errors(include_url=False, include_input=False)
    ]
    return ValidationError.from_exception_data(error.title, details, hide_input=True)
