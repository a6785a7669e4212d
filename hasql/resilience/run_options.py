"""The arguments of one `run`, checked."""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from hasql.cluster.checks import check_flag
from hasql.driver.transactions import TransactionModes, isolation_level
from hasql.errors import ConfigurationError
from hasql.resilience.retry_policy import RetryPolicy

__all__ = ("RunOptions", "run_options")

_DEFAULT: Final = RetryPolicy()


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The arguments of one `run`. Raises ConfigurationError or TypeError for unusable ones."""

    read_only: bool
    idempotent: bool
    retry: RetryPolicy | None
    isolation: str | None
    resolve_commits: bool
    policy: RetryPolicy = field(init=False)
    #: How its transactions are begun: in general, and if the mark of a commit is asked for in them.
    #: The two are the same if marks are never asked for.
    modes: TransactionModes = field(init=False)
    modes_to_mark: TransactionModes = field(init=False)
    #: How transactions are begun that must write nothing, whatever server they are on.
    modes_to_read: TransactionModes = field(init=False)

    def __post_init__(self) -> None:
        for name in ("read_only", "idempotent", "resolve_commits"):
            check_flag(name, getattr(self, name))
        if self.retry is not None and not isinstance(self.retry, RetryPolicy):
            msg = f"retry must be a hasql.resilience.RetryPolicy, not {self.retry!r}"
            raise TypeError(msg)
        level = None if self.isolation is None else isolation_level(self.isolation)
        if level == "serializable" and self.read_only:
            raise ConfigurationError(
                "a replica has no serializable transactions: use isolation='repeatable read', or "
                "run it without read_only"
            )
        modes = TransactionModes(level, self.read_only)
        object.__setattr__(self, "policy", self.retry or _DEFAULT)
        object.__setattr__(self, "modes", modes)
        object.__setattr__(self, "modes_to_mark", replace(modes, asked=self.resolve_commits))
        object.__setattr__(self, "modes_to_read", replace(modes, read_only=True))


@lru_cache(maxsize=64, typed=True)
def _checked(
    read_only: bool,  # noqa: FBT001  # private, in the order of the fields
    idempotent: bool,  # noqa: FBT001  # as above
    retry: RetryPolicy | None,
    isolation: str | None,
    resolve_commits: bool,  # noqa: FBT001  # as above
) -> RunOptions:
    return RunOptions(read_only, idempotent, retry, isolation, resolve_commits)


def run_options(
    read_only: bool,  # noqa: FBT001  # as above
    idempotent: bool,  # noqa: FBT001  # as above
    retry: RetryPolicy | None,
    isolation: str | None,
    resolve_commits: bool,  # noqa: FBT001  # as above
) -> RunOptions:
    """Return the checked options; cached, because an application repeats the same ones.

    Raises ConfigurationError or TypeError for unusable arguments.
    """
    try:
        return _checked(read_only, idempotent, retry, isolation, resolve_commits)
    except TypeError:  # an argument cannot be hashed, so it has a wrong type
        return RunOptions(read_only, idempotent, retry, isolation, resolve_commits)
