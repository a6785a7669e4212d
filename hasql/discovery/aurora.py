"""The instances of an Amazon Aurora cluster, asked of any of them by SQL."""

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
    """The writer and the readers that ``aurora_replica_status()`` lists, the writer first.

    A reader that has not reported for five minutes is left out. Who writes is for the probes to
    say, and the lag that Aurora tells is not used.
    https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora_replica_status.html

    Args:
        instance_pattern: What the endpoints of the instances look like, with a ``?`` for the name
            of the instance: ``?.xyz.eu-west-1.rds.amazonaws.com``. The password goes to no host
            that does not.
        port: The port of all of them.

    Raises:
        ConfigurationError: The pattern or the port cannot be one.
    """

    # Of the instance that is asked the time is NULL, and for the writer it does not matter: that
    # one is whom the others report to.
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
                f"instance_pattern={instance_pattern!r} must be the name of a host with one ? in "
                "its first label, where the name of the instance stands, such as "
                "'?.xyz.eu-west-1.rds.amazonaws.com'; another port is for port="
            )
        self._pattern = instance_pattern
        self._port = Discovered(HostSpec(instance_pattern.replace("?", "x"), port)).host.port

    def _read(self, row: Mapping[str, Any]) -> Discovered:
        name = row["server_id"]
        if not isinstance(name, str) or not _INSTANCE.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an instance")
        return Discovered(HostSpec(self._pattern.replace("?", name), self._port), label=name)

    def __str__(self) -> str:
        """The class, and the pattern."""
        return f"{type(self).__name__}({self._pattern!r})"
