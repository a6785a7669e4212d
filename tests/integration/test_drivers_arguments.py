"""Each documented argument of each driver's library: taken, or refused with the reason.

A table for each library. One that a new version of a library adds is in none of them, and fails.
"""

from __future__ import annotations

import json
import re
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from hasql import ConfigurationError
from hasql.cluster.dsn import Dsn

if TYPE_CHECKING:
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: what is asked here is the same on any."""
    return "asyncio", {"use_uvloop": False}


DSN = "postgresql://app:secret@db1,db2/app"
#: What hasql does itself, and words of the remedy.
IN_THE_DSN = dict.fromkeys(("host", "port"), "name the hosts in the DSN")
CHOOSES = {"target_session_attrs": "hasql itself chooses"}
DSN_ITSELF = {"dsn": "the pool manager's first argument"}
OF_THE_LOOP = {"loop": "event loop in which it is used"}


async def hook(*_: object) -> None: ...


def plain_hook(*_: object) -> None: ...


class Taken:
    """The arguments that one library takes, with a value for each, and those that it does not."""

    def __init__(self, taken: dict[str, Any], refused: dict[str, str]) -> None:
        self.taken = taken
        self.refused = refused


def of_asyncpg() -> Taken:
    import asyncpg

    taken = {
        "user": "app",
        "password": "secret",
        "passfile": "/dev/null",
        "service": "x",
        "servicefile": "/dev/null",
        "database": "app",
        "timeout": 5,
        "statement_cache_size": 10,
        "max_cached_statement_lifetime": 10,
        "max_cacheable_statement_size": 1000,
        "command_timeout": 5,
        "ssl": "disable",
        "direct_tls": False,
        "connection_class": asyncpg.Connection,
        "record_class": asyncpg.Record,
        "server_settings": {"work_mem": "8MB"},
        "krbsrvname": "postgres",
        "gsslib": "gssapi",
    }
    return Taken(taken, {**IN_THE_DSN, **CHOOSES, **DSN_ITSELF, **OF_THE_LOOP})


def of_asyncpgs_pool() -> Taken:
    of_connections = of_asyncpg()
    hooks = {"connect": hook, "setup": hook, "init": hook, "reset": hook}
    numbers = {"min_size": 1, "max_size": 2, "max_queries": 9}
    taken = {**of_connections.taken, **hooks, **numbers, "max_inactive_connection_lifetime": 9}
    return Taken({**taken, "init_size": 1}, of_connections.refused)


#: What libpq takes but the hosts; hasql reads the first four in the DSN as well.
OF_LIBPQ = {
    "user": "app",
    "password": "secret",
    "dbname": "app",
    "passfile": "/dev/null",
    "connect_timeout": 5,
    "client_encoding": "UTF8",
    "options": "-c work_mem=8MB",
    "application_name": "x",
    "fallback_application_name": "x",
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 5,
    "tcp_user_timeout": 5000,
    "replication": "false",
    "gssencmode": "disable",
    "sslmode": "disable",
    "sslcompression": 0,
    "sslcert": "/no/file",
    "sslkey": "/no/file",
    "sslpassword": "secret",
    "sslrootcert": "/no/file",
    "sslcrl": "/no/file",
    "sslcrldir": "/no/file",
    "sslsni": 1,
    "requirepeer": "postgres",
    "ssl_min_protocol_version": "TLSv1.2",
    "ssl_max_protocol_version": "TLSv1.3",
    "krbsrvname": "postgres",
    "channel_binding": "prefer",
}
NOT_OF_LIBPQ = {
    **IN_THE_DSN,
    **CHOOSES,
    "hostaddr": "name the hosts in the DSN",
    "load_balance_hosts": "hasql itself chooses",
    "service": "service in the DSN",
}


def of_psycopg() -> Taken:
    from psycopg import AsyncCursor
    from psycopg.rows import dict_row

    of_psycopg = {
        "autocommit": True,
        "prepare_threshold": 5,
        "context": None,
        "row_factory": dict_row,
        "cursor_factory": AsyncCursor,
    }
    return Taken({**OF_LIBPQ, **of_psycopg}, {**NOT_OF_LIBPQ, "conninfo": "first argument"})


def of_psycopgs_pool() -> Taken:
    from psycopg import AsyncConnection

    taken = {
        "connection_class": AsyncConnection,
        "kwargs": {"autocommit": True},
        "min_size": 1,
        "max_size": 2,
        "configure": hook,
        "check": hook,
        "reset": hook,
        "name": "x",
        "timeout": 5,
        "max_waiting": 9,
        "max_lifetime": 60,
        "max_idle": 60,
        "num_workers": 2,
    }
    refused = {
        "conninfo": "first argument",
        "open": "when its host answers",
        "close_returns": "release",
        "reconnect_timeout": "hasql itself connects",
        "reconnect_failed": "hasql itself connects",
    }
    return Taken(taken, refused)


def of_aiopg() -> Taken:
    from psycopg2 import extensions  # type: ignore[import-untyped]

    taken = {
        **OF_LIBPQ,
        "database": "app",
        "connection_factory": extensions.connection,
        "cursor_factory": extensions.cursor,
        "minsize": 1,
        "maxsize": 2,
        "timeout": 5,
        "pool_recycle": 60,
        "enable_json": False,
        "enable_hstore": False,
        "enable_uuid": False,
        "echo": True,
        "on_connect": hook,
    }
    own = {"async": "aiopg says itself", "async_": "aiopg says itself"}
    return Taken(taken, {**NOT_OF_LIBPQ, **DSN_ITSELF, **own})


def of_sqlalchemy() -> Taken:
    taken = {
        "connect_args": {},
        "empty_in_strategy": "static",  # without effect, and deprecated, as `implicit_returning`
        "implicit_returning": True,
        "echo": False,
        "echo_pool": False,
        "enable_from_linting": False,
        "execution_options": {"x": 1},
        "future": True,
        "hide_parameters": True,
        "insertmanyvalues_page_size": 10,
        "isolation_level": "READ COMMITTED",
        "json_deserializer": json.loads,
        "json_serializer": json.dumps,
        "label_length": 20,
        "logging_name": "x",
        "max_identifier_length": 63,
        "max_overflow": 1,
        "paramstyle": "numeric_dollar",
        "plugins": [],
        "pool_events": [(plain_hook, "checkout")],
        "pool_logging_name": "x",
        "pool_pre_ping": True,
        "pool_recycle": 60,
        "pool_reset_on_return": "rollback",
        "pool_size": 1,
        "pool_timeout": 5,
        "pool_use_lifo": True,
        "query_cache_size": 10,
        "use_insertmanyvalues": False,
        "native_inet_types": False,
    }
    if tuple(map(int, version("sqlalchemy").split(".")[:2])) >= (2, 1):
        taken["skip_autocommit_rollback"] = True
    refused = dict.fromkeys(("url", "pool", "poolclass"), "one queue pool for each host")
    refused |= dict.fromkeys(("creator", "async_creator", "module"), "connect_args")
    return Taken(taken, refused | {"server_side_cursors": "stream"})


def tables(kit: Kit) -> list[tuple[Taken, Any]]:
    """Return each table for a driver, with what makes `pool_factory_kwargs` of one argument."""
    if kit.name in {"asyncpg", "asyncpgsa"}:
        pool = of_asyncpgs_pool()
        if kit.name == "asyncpgsa":
            pool.taken["dialect"] = import_module("asyncpgsa.connection").get_dialect()
        return [(pool, dict)]
    if kit.name == "psycopg3":
        return [(of_psycopgs_pool(), dict), (of_psycopg(), lambda given: {"kwargs": given})]
    if kit.name in {"aiopg", "aiopg_sa"}:
        pool = of_aiopg()
        if kit.name == "aiopg_sa":
            pool.taken["dialect"] = import_module("aiopg.sa.engine").get_dialect()
        return [(pool, dict)]
    engine, beneath = of_sqlalchemy(), of_psycopg()
    if kit.name == "sqlalchemy-asyncpg":
        beneath = of_asyncpg()
        beneath.taken |= {"prepared_statement_cache_size": 0}
        beneath.taken |= {"prepared_statement_name_func": lambda: ""}
    else:
        engine.taken |= {"paramstyle": "pyformat"}
        engine.taken |= {"use_native_hstore": False}
        beneath.taken["service"] = beneath.refused.pop("service") and "x"
    return [(engine, dict), (beneath, lambda given: {"connect_args": given})]


@pytest.mark.filterwarnings("ignore:The create_engine:DeprecationWarning")
def test_each_argument_is_taken_or_refused_with_a_reason(kit: Kit) -> None:
    for table, kwargs in tables(kit):
        for name, value in table.taken.items():
            kit.manager(DSN, pool_factory_kwargs=kwargs({name: value}))
        for name, reason in table.refused.items():
            with pytest.raises(ConfigurationError, match=f"{name}.*{reason}"):
                kit.manager(DSN, pool_factory_kwargs=kwargs({name: True}))


def test_each_argument_of_the_library_is_in_a_table(kit: Kit) -> None:
    known = {name for table, _ in tables(kit) for name in (*table.taken, *table.refused)}
    assert set(documented(kit)) - known == set()


def documented(kit: Kit) -> list[str]:
    """Return the names that a library's own signatures and pages have."""
    from sqlalchemy import create_engine
    from sqlalchemy.ext.asyncio import create_async_engine

    callables = {
        "asyncpg": ("asyncpg.create_pool", "asyncpg.connect"),
        "asyncpgsa": ("asyncpgsa.create_pool", "asyncpg.connect"),
        "psycopg3": ("psycopg_pool.AsyncConnectionPool", "psycopg.AsyncConnection.connect"),
        "aiopg": ("aiopg.create_pool", "psycopg2.connect"),
        "aiopg_sa": ("aiopg.sa.create_engine", "aiopg.create_pool", "psycopg2.connect"),
        "sqlalchemy-asyncpg": ("asyncpg.connect",),
        "sqlalchemy-psycopg": ("psycopg.AsyncConnection.connect",),
    }[kit.name]
    names: list[str] = []
    if kit.name.startswith("sqlalchemy"):
        documented_by = (create_async_engine.__doc__, create_engine.__doc__)
        names += re.findall(r"(?m)^ *:param (\w+)", "".join(map(str, documented_by)))
    for path in callables:
        module, *parts = path.split(".")
        found: Any = import_module(module)
        for part in parts:
            found = getattr(found, part, None) or import_module(f"{module}.{part}")
        names += [
            name for name, p in signature(found).parameters.items() if p.kind != p.VAR_KEYWORD
        ]
    return names


# That they arrive


def of_connections(kit: Kit, **kwargs: Any) -> dict[str, Any]:
    """Return `pool_factory_kwargs` that hold what is for connections."""
    if kit.name == "psycopg3":
        return {"kwargs": kwargs}
    return {"connect_args": kwargs} if kit.name.startswith("sqlalchemy") else kwargs


async def test_settings_arrive_from_the_dsn_and_from_the_arguments(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    dsn = f"{pg_cluster.dsn}?options=-c%20work_mem%3D8MB&application_name=a%2Bb"
    settings: dict[str, Any] = {"options": "-c work_mem=8MB", "application_name": "a+b"}
    if "asyncpg" in kit.name:
        settings = {"server_settings": {"work_mem": "8MB", "application_name": "a+b"}}
    for manager in (
        kit.manager(dsn),
        kit.manager(pg_cluster.dsn, pool_factory_kwargs=of_connections(kit, **settings)),
    ):
        async with manager, manager.acquire_master() as connection:
            assert await kit.value(connection, "SHOW work_mem") == "8MB"
            assert await kit.value(connection, "SHOW application_name") == "a+b"


async def test_a_plus_in_a_query_is_what_the_drivers_library_takes_it_for(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    manager = kit.manager(f"{pg_cluster.dsn}?application_name=a+b")
    of_libpq = kit.name in {"psycopg3", "aiopg", "aiopg_sa"}
    async with manager, manager.acquire_master() as connection:
        name = await kit.value(connection, "SHOW application_name")
    assert name == ("a+b" if of_libpq else "a b")


async def test_a_dsn_may_hold_each_parameter_that_the_drivers_library_knows(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    parsed = Dsn.parse(pg_cluster.dsn)
    given: dict[str, Any] = {**OF_LIBPQ, "user": parsed.user, "password": parsed.password}
    of_asyncpg: tuple[str, ...] = (
        "passfile",
        "sslmode",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslrootcert",
    )
    of_asyncpg += ("sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname")
    if "asyncpg" in kit.name:
        given = {name: given[name] for name in ("user", "password", "dbname", *of_asyncpg)}
        given |= {"gsslib": "gssapi", "service": "x", "sslnegotiation": "postgres"}
        given |= {"database": "app"}
    query = "&".join(f"{name}={quote(str(value))}" for name, value in given.items())
    dsn = f"postgresql://{','.join(map(str, parsed.hosts))}/?{query}&target_session_attrs=any"
    async with kit.manager(dsn) as manager:
        await manager.ready(1, 2)
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, "SELECT current_database()") == "app"
