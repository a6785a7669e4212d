"""Each documented argument of each driver's library is taken, or refused with the reason.

Each kit lists the arguments in tables. An argument that a new version of a library adds is in none
of them, and makes a test fail.
"""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from hasql import ConfigurationError
from hasql.cluster.dsn import Dsn
from testbed.kits.arguments import OF_LIBPQ

if TYPE_CHECKING:
    from hasql.testing import LocalCluster
    from testbed.kits.arguments import Arguments
    from testbed.kits.base import Kit


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: what these tests check is the same on any."""
    return "asyncio", {"use_uvloop": False}


DSN = "postgresql://app:secret@db1,db2/app"


@pytest.mark.filterwarnings("ignore:The create_engine:DeprecationWarning")
def test_each_argument_is_taken_or_refused_with_a_reason(kit: Kit) -> None:
    for arguments in kit.arguments():
        for name, value in arguments.taken.items():
            kit.manager(DSN, pool_factory_kwargs=arguments.within({name: value}))
        for name, reason in arguments.refused.items():
            with pytest.raises(ConfigurationError, match=f"{name}.*{reason}"):
                kit.manager(DSN, pool_factory_kwargs=arguments.within({name: True}))


def test_each_argument_of_the_library_is_in_a_table(kit: Kit) -> None:
    known = {name for each in kit.arguments() for name in (*each.taken, *each.refused)}
    documented = {name for each in kit.arguments() for name in documented_of(each)}
    assert documented - known == set()


def documented_of(arguments: Arguments) -> list[str]:
    """Return the names of the arguments in a library's own signatures and pages."""
    names = list(arguments.on_pages)
    for path in arguments.documented_by:
        module, *parts = path.split(".")
        found: Any = import_module(module)
        for part in parts:
            found = getattr(found, part, None) or import_module(f"{module}.{part}")
        names += [
            name for name, p in signature(found).parameters.items() if p.kind != p.VAR_KEYWORD
        ]
    return names


# That arguments arrive


async def test_settings_arrive_from_the_dsn_and_from_the_arguments(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    dsn = f"{pg_cluster.dsn}?options=-c%20work_mem%3D8MB&application_name=a%2Bb"
    settings = kit.with_settings(work_mem="8MB", application_name="a+b")
    for manager in (kit.manager(dsn), kit.manager(pg_cluster.dsn, pool_factory_kwargs=settings)):
        async with manager, manager.acquire_master() as connection:
            assert await kit.value(connection, "SHOW work_mem") == "8MB"
            assert await kit.value(connection, "SHOW application_name") == "a+b"


async def test_a_plus_in_a_query_is_what_the_drivers_library_takes_it_for(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    manager = kit.manager(f"{pg_cluster.dsn}?application_name=a+b")
    async with manager, manager.acquire_master() as connection:
        name = await kit.value(connection, "SHOW application_name")
    assert name == ("a b" if kit.plus_is_space else "a+b")


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
    if not kit.over_libpq:
        given = {name: given[name] for name in ("user", "password", "dbname", *of_asyncpg)}
        given |= {"gsslib": "gssapi", "service": "x", "sslnegotiation": "postgres"}
        given |= {"database": "app"}
    query = "&".join(f"{name}={quote(str(value))}" for name, value in given.items())
    dsn = f"postgresql://{','.join(map(str, parsed.hosts))}/?{query}&target_session_attrs=any"
    async with kit.manager(dsn) as manager:
        await manager.ready(1, 2)
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, "SELECT current_database()") == "app"
