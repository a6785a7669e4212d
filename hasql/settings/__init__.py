"""Settings of pool managers: from code, the environment, a `.env` file or a TOML file."""

from hasql.errors import MissingExtraError

try:
    from hasql.settings.groups import (
        AdmissionGroup,
        BreakerGroup,
        LifecycleGroup,
        RateLimitGroup,
        SessionGroup,
    )
    from hasql.settings.pool_settings import Settings
except ImportError as error:
    raise MissingExtraError(
        "hasql.settings needs pydantic-settings: pip install 'hasql[settings]'"
    ) from error

__all__ = (
    "AdmissionGroup",
    "BreakerGroup",
    "LifecycleGroup",
    "RateLimitGroup",
    "SessionGroup",
    "Settings",
)
