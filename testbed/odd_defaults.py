"""A role and a database full of odd defaults, and an environment full of PG* variables.

Each of them may occur in practice: an application may need it, or other programs on the machine
may. None of them may change what hasql learns about servers.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from testbed.scene import until_replicated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hasql.testing import LocalCluster

__all__ = ("ENVIRONMENT", "evil_schema", "odd_defaults")

#: Functions and operators that precede the catalog's in the search path, and say the opposite.
_EVIL = """\
DROP SCHEMA IF EXISTS evil CASCADE;
CREATE SCHEMA evil;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE FUNCTION evil.pg_is_in_recovery() RETURNS bool LANGUAGE sql
  AS 'SELECT NOT pg_catalog.pg_is_in_recovery()';
CREATE FUNCTION evil.pg_walfile_name(pg_lsn) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
CREATE FUNCTION evil.times(numeric, numeric) RETURNS numeric LANGUAGE sql AS 'SELECT NULL::numeric';
CREATE OPERATOR evil.* (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = evil.times)"""

_ROLE = {
    "client_encoding": "'SQL_ASCII'",
    "datestyle": "'German'",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_read_only": "on",
    "extra_float_digits": "-15",
    "idle_in_transaction_session_timeout": "'1ms'",
    "idle_session_timeout": "'400ms'",
    "intervalstyle": "'sql_standard'",
    "lock_timeout": "'1ms'",
    "timezone": "'Asia/Kolkata'",
}
_ROLE_IN_DATABASE = {
    "client_min_messages": "debug5",
    "search_path": "evil, pg_catalog, public",
    "standard_conforming_strings": "off",
    "statement_timeout": "'20ms'",
}
#: These apply to the superuser as well.
_DATABASE = {"bytea_output": "'escape'", "jit_above_cost": "0"}

#: An address that nothing listens on.
_NOWHERE = {"PGHOST": "127.0.0.9", "PGHOSTADDR": "127.0.0.9", "PGPORT": "9"}

#: Variables that a machine's login scripts may have set. `evil_schema` makes the schema.
ENVIRONMENT = {
    **_NOWHERE,
    "PGDATESTYLE": "German",
    "PGGEQO": "off",
    "PGLOADBALANCEHOSTS": "random",
    "PGOPTIONS": "-c search_path=evil,pg_catalog -c lock_timeout=5s",
    "PGTZ": "Asia/Kolkata",
}


@asynccontextmanager
async def evil_schema(cluster: LocalCluster) -> AsyncIterator[None]:
    """Provide a schema with functions and operators that do not do what their names say."""
    await cluster.master.sql(_EVIL)
    await until_replicated(cluster)
    yield
    await cluster.master.sql("DROP SCHEMA evil CASCADE")


@asynccontextmanager
async def odd_defaults(cluster: LocalCluster) -> AsyncIterator[None]:
    """Set odd defaults, that schema among them, for the application's role and database."""
    async with evil_schema(cluster):
        await cluster.master.sql(_statements("ROLE app", _ROLE))
        await cluster.master.sql(_statements("ROLE app IN DATABASE app", _ROLE_IN_DATABASE))
        await cluster.master.sql(_statements("DATABASE app", _DATABASE))
        await until_replicated(cluster)
        try:
            yield
        finally:
            master = cluster.master
            await master.sql("ALTER ROLE app RESET ALL; ALTER ROLE app IN DATABASE app RESET ALL")
            await master.sql("ALTER DATABASE app RESET ALL")
            await until_replicated(cluster)


def _statements(whose: str, settings: dict[str, str]) -> str:
    return "; ".join(f"ALTER {whose} SET {name} = {value}" for name, value in settings.items())
