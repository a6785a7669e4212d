"""The answer of Patroni's REST API at ``/cluster``, read from its JSON.

https://patroni.readthedocs.io/en/latest/rest_api.html#cluster-status-endpoints
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from hasql.cluster.discovered import Discovered
from hasql.cluster.host import DEFAULT_PORT, HostSpec

__all__ = ("PatroniCluster",)


_MOST_MEMBERS: Final = 256
"""More members than any cluster has: an answer that names more is not believed."""


@dataclass(frozen=True, slots=True)
class PatroniCluster:
    """One answer of Patroni."""

    scope: str | None
    """The name of the cluster; older versions of Patroni do not tell it."""
    hosts: tuple[Discovered, ...]
    """The members, whatever their state: the probes find out their roles and when they are back."""
    api_urls: tuple[str, ...]
    """The URLs at which the members say that they can be asked."""
    switchover_in: float | None
    """Seconds until the scheduled switchover, by the clock of the server that answered."""

    @classmethod
    def read(cls, body: bytes, date: str | None) -> "PatroniCluster":
        """Read an answer; `date` is the time at which it was given, as HTTP writes it.

        Raises:
            ValueError: It is not a usable answer; the message says why.
        """
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise ValueError("its answer is not JSON") from None
        members = content.get("members") if isinstance(content, dict) else None
        if not isinstance(members, list):
            raise ValueError("its answer is not that of Patroni's /cluster")  # noqa: TRY004  # data
        if len(members) > _MOST_MEMBERS:
            raise ValueError(f"it names {len(members)} members, more than {_MOST_MEMBERS}")
        hosts, api_urls = [], []
        for member in members:
            if (host := _read_host(member)) is not None:
                hosts.append(host)
            if isinstance(url := member.get("api_url"), str):
                api_urls.append(url)
        if not hosts:
            raise ValueError("it names no member with an address")
        scope, scheduled = content.get("scope"), content.get("scheduled_switchover")
        return cls(
            scope if isinstance(scope, str) else None,
            tuple(hosts),
            tuple(api_urls),
            _seconds_until(scheduled, date),
        )


def _read_host(member: object) -> Discovered | None:
    """Return a member as a host; None if it has no address because it has not started yet.

    Raises ValueError if it is no member with a name and a usable address.
    """
    if not isinstance(member, dict) or not isinstance(member.get("name"), str):
        raise ValueError("a member in its answer has no name")  # noqa: TRY004  # as above
    host, port = member.get("host"), member.get("port")
    if not host:
        return None
    tags = member.get("tags")
    tags = tags if isinstance(tags, dict) else {}
    # A socket, or a name with an address in brackets: Patroni never names either.
    if str(host).startswith("/") or "[" in str(host):
        raise ValueError(f"member {member['name']!r} has no usable address: {host!r} is not one")
    try:
        return Discovered(
            HostSpec(host, DEFAULT_PORT if port is None else port),
            # The tag says who may be promoted later. The present leader leads with Patroni's
            # consent, whatever its tags.
            never_master=member.get("role") != "leader" and _is_no_candidate(tags),
            never_replica=bool(tags.get("noloadbalance")),
            label=member["name"],
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"member {member['name']!r} has no usable address: {error}") from None


def _is_no_candidate(tags: Mapping[str, Any]) -> bool:
    """Tell whether Patroni would never promote a member; `nofailover` outweighs the priority."""
    if (nofailover := tags.get("nofailover")) is not None:
        return bool(nofailover)
    try:
        return int(tags["failover_priority"]) <= 0
    except (KeyError, TypeError, ValueError):
        return False


def _seconds_until(scheduled: object, date: str | None) -> float | None:
    """Return the seconds until a scheduled switchover; None if none is, or its time is unknown."""
    at = scheduled.get("at") if isinstance(scheduled, dict) else None
    if date is None or not isinstance(at, str):
        return None
    try:
        now = parsedate_to_datetime(date)
        return (now.fromisoformat(at) - now).total_seconds()
    except (TypeError, ValueError):  # one of the two has no time zone, or is not a time
        return None
