"""Names that move: a resolver that keeps what it knows of them.

Needs dnspython: ``pip install 'hasql[dns]'``. Importing it needs nothing.
"""

from hasql.dns.answers import Answer, SrvAnswer, SrvTarget
from hasql.dns.followed_name import FollowedName
from hasql.dns.resolver import Resolver, clear_dns_cache, get_ip_with_ttl

__all__ = (
    "Answer",
    "FollowedName",
    "Resolver",
    "SrvAnswer",
    "SrvTarget",
    "clear_dns_cache",
    "get_ip_with_ttl",
)
