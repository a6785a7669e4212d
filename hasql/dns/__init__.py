"""Names that move: a resolver that remembers their addresses, and engines that follow a name.

Using this package needs dnspython: ``pip install 'hasql[dns]'``. The engines also need SQLAlchemy 2
and a driver. Importing the package needs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from hasql.dns.answers import Answer, SrvAnswer, SrvTarget
from hasql.dns.followed_name import FollowedName
from hasql.dns.resolver import Resolver, clear_dns_cache, get_ip_with_ttl

if TYPE_CHECKING:
    from hasql.dns.engine import get_async_dns_engine, get_dns_engine

__all__ = (
    "Answer",
    "FollowedName",
    "Resolver",
    "SrvAnswer",
    "SrvTarget",
    "clear_dns_cache",
    "get_async_dns_engine",
    "get_dns_engine",
    "get_ip_with_ttl",
)

#: The names that need SQLAlchemy. They are imported when they are first used.
_OF_SQLALCHEMY = frozenset({"get_async_dns_engine", "get_dns_engine"})


def __getattr__(name: str) -> object:
    if name in _OF_SQLALCHEMY:
        return getattr(import_module(f"{__name__}.engine"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
