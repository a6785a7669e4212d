"""The instances of an Amazon Aurora cluster, which any of them lists by SQL."""

import re
from collections.abc import Mapping
from typing import Any

from hasql.cluster.discovered import Discovered
from hasql.cluster.host import HostSpec
from hasql.discovery.sql import SqlDiscovery
from hasql.errors import ConfigurationError

__all__ = ("AuroraDiscovery",)

_PATTERN = re.compile(r"[\w-]*\?[\w-]*(\.[\w-]+)+", re.ASCII)
_INSTANCE = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII | re.IGNORECASE)


class AuroraDiscovery(SqlDiscovery):
    """A source whose hosts are the instances that ``aurora_replica_status()`` lists.

    The writer comes first. A reader that has not reported for five minutes is left out. The probes
    find out which instance is the master, and the lag that Aurora reports is not used.
    https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora_replica_status.html

    Args:
        instance_pattern: The form of the instances' endpoints, with a ``?`` for the name of the
            instance: ``?.xyz.eu-west-1.rds.amazonaws.com``. All hosts have this form, so the
            password is sent to no other.
        port: The port of all instances. Default: 5432.

    Raises:
        ConfigurationError: `instance_pattern` is not such a pattern, or `port` is not a port.
        TypeError: `instance_pattern` is not a str.
    """

    # The time of the instance that is asked is NULL. The writer's time does not matter, because
    # the readers report to the writer.
    _query = """
SELECT server_id, session_id = 'MASTER_SESSION_ID' AS writer
FROM pg_catalog.aurora_replica_status()
WHERE session_id = 'MASTER_SESSION_ID' OR last_update_timestamp IS NULL
 OR last_update_timestamp > pg_catalog.now() - interval '5 minutes'
ORDER BY 2 DESC, 1"""

    def __init__(self, instance_pattern: str, *, port: int = 5432) -> None:
        super().__init__()
        if not isinstance(instance_pattern, str):
            raise TypeError(f"instance_pattern must be a str, not {instance_pattern!r}")
        if not _PATTERN.fullmatch(instance_pattern):
            raise ConfigurationError(
                f"instance_pattern={instance_pattern!r} must be a host name with one ? in its "
                "first label, in place of the instance's name, such as "
                "'?.xyz.eu-west-1.rds.amazonaws.com'; give another port as port="
            )
        self._pattern = instance_pattern
        self._port = Discovered(HostSpec(instance_pattern.replace("?", "x"), port)).host.port

    def _read(self, row: Mapping[str, Any]) -> Discovered:
        name = row["server_id"]
        if not isinstance(name, str) or not _INSTANCE.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of an instance")
        return Discovered(HostSpec(self._pattern.replace("?", name), self._port), label=name)

    def __str__(self) -> str:
        """Return the class and the pattern."""
        return f"{type(self).__name__}({self._pattern!r})"
