"""The instances of an Amazon RDS Multi-AZ DB cluster, which any of them lists by SQL."""

from collections.abc import Mapping
from typing import Any

from hasql.cluster.discovered import Discovered
from hasql.cluster.host import HostSpec
from hasql.discovery.sql import SqlDiscovery

__all__ = ("RdsDiscovery",)


class RdsDiscovery(SqlDiscovery):
    """A source whose hosts are the instances that ``rds_tools.show_topology()`` lists.

    The database needs the extension, ``CREATE EXTENSION rds_tools``, and the application's role
    needs ``USAGE`` on its schema. The probes find out which instance is the master.
    https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/PostgreSQL_rds_tools-functions-reference.html
    """

    _query = "SELECT id::text AS id, endpoint, port FROM rds_tools.show_topology() ORDER BY 2"

    def _read(self, row: Mapping[str, Any]) -> Discovered:
        return Discovered(HostSpec(row["endpoint"], row["port"]), label=row["id"])
