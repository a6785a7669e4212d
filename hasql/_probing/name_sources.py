"""The sources that tell where names lead: a resolver of hasql's, or that of the system."""

from collections.abc import Callable
from functools import partial

from hasql._probing.followed_names import NameSource
from hasql.dns import Answer, Resolver
from hasql.dns.system import ask_system
from hasql.errors import MissingExtraError

__all__ = ("SystemNames", "source_of_names")

#: Seconds for which an answer of the system is kept, because that does not tell a TTL.
_TTL = 30.0
#: Seconds after which the system is asked again, whatever has become of the question.
_TIMEOUT = 30.0


def source_of_names(resolver: Resolver | None) -> Callable[[], NameSource]:
    """Return a function that makes a manager's source: the given one, or the best there is.

    Raises TypeError if `resolver` is not a `Resolver`.
    """
    if resolver is None:
        return _best_source
    if not isinstance(resolver, Resolver):
        msg = f"resolver must be a hasql.dns.Resolver, not {type(resolver).__name__}"
        raise TypeError(msg)
    return partial(_given, resolver)


def _given(resolver: Resolver) -> NameSource:
    return resolver


def _best_source() -> NameSource:
    try:
        return Resolver()
    except MissingExtraError:
        return SystemNames()


class SystemNames:
    """Names as the system's resolver knows them."""

    async def lookup_async(self, host: str) -> Answer:
        """Return the addresses of a name, IPv4 first. Raises OSError."""
        return Answer(await ask_system(host, _TIMEOUT), _TTL)

    def expire(self, host: str) -> None:
        """Do nothing, because nothing is kept."""
