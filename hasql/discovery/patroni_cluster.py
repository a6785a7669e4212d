"""What Patroni's REST API says of a cluster at ``/cluster``, read from its JSON.

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
"""More than a cluster has: who names more is not believed."""


@dataclass(frozen=True, slots=True)
class PatroniCluster:
    """One answer."""

    scope: str | None
    """The name of the cluster; older versions tell none."""
    hosts: tuple[Discovered, ...]
    """Its members, whatever their state: probes see what they are, also when they come back."""
    api_urls: tuple[str, ...]
    """Where the members say that they can be asked."""
    switchover_in: float | None
    """Seconds until the switchover that is scheduled, by the clock of who has answered."""

    @classmethod
    def read(cls, body: bytes, date: str | None) -> "PatroniCluster":
        """Read an answer, and the time at which it was given.

        Raises:
            ValueError: It is none; the message says why.
        """
        try:
            said = json.loads(body)
        except (ValueError, RecursionError):
            raise ValueError("its answer is no JSON") from None
        members = said.get("members") if isinstance(said, dict) else None
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
        scope, scheduled = said.get("scope"), said.get("scheduled_switchover")
        return cls(
            scope if isinstance(scope, str) else None,
            tuple(hosts),
            tuple(api_urls),
            _until(scheduled, date),
        )


def _read_host(member: object) -> Discovered | None:
    """Return a member as a host; None for one that has no address yet, as it has not started."""
    if not isinstance(member, dict) or not isinstance(member.get("name"), str):
        raise ValueError("a member in its answer has no name")  # noqa: TRY004  # as above
    host, port = member.get("host"), member.get("port")
    if not host:
        return None
    tags = member.get("tags")
    tags = tags if isinstance(tags, dict) else {}
    # A socket, or a name with an address, which Patroni never tells.
    if str(host).startswith("/") or "[" in str(host):
        raise ValueError(f"member {member['name']!r} has no usable address: {host!r} is none")
    try:
        return Discovered(
            HostSpec(host, DEFAULT_PORT if port is None else port),
            # Whoever leads now leads, with Patroni's consent: the tag is about who may follow.
            never_master=member.get("role") != "leader" and _is_no_candidate(tags),
            never_replica=bool(tags.get("noloadbalance")),
            label=member["name"],
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"member {member['name']!r} has no usable address: {error}") from None


def _is_no_candidate(tags: Mapping[str, Any]) -> bool:
    """Tell whether Patroni would never promote a member: the first tag outweighs the other."""
    if (nofailover := tags.get("nofailover")) is not None:
        return bool(nofailover)
    try:
        return int(tags["failover_priority"]) <= 0
    except (KeyError, TypeError, ValueError):
        return False


def _until(scheduled: object, date: str | None) -> float | None:
    """Return the seconds until a switchover; None if none is scheduled, or none knows when."""
    at = scheduled.get("at") if isinstance(scheduled, dict) else None
    if date is None or not isinstance(at, str):
        return None
    try:
        now = parsedate_to_datetime(date)
        return (now.fromisoformat(at) - now).total_seconds()
    except (TypeError, ValueError):  # one of them has no time zone, or is no time
        return None
