"""A pool manager reads a URL for SQLAlchemy as SQLAlchemy does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import CreateEnginePlugin

from hasql import ConfigurationError
from hasql.asyncsqlalchemy import PoolManager
from hasql.cluster.dsn import Dsn
from hasql.testing import LocalCluster
from hasql.testing._account import Account
from hasql.testing.binaries import find_local
from testbed.middlemen.program import NONE
from tests.middlemen import skip

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

pytestmark = pytest.mark.usefixtures("nothing_unheard")


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: what these tests check is the same on any."""
    return "asyncio", {"use_uvloop": False}


def over(driver: str, cluster: LocalCluster, query: str) -> str:
    return f"{cluster.dsn.replace('postgresql', f'postgresql+{driver}', 1)}?{query}"


async def test_arguments_in_the_url_arrive(pg_cluster: LocalCluster) -> None:
    query = "prepared_statement_cache_size=0&command_timeout=0.2&statement_cache_size=7&timeout=9"
    query += "&max_cached_statement_lifetime=8&max_cacheable_statement_size=99&direct_tls=false"
    query += "&ssl=disable&work_mem=8MB&application_name=mine"
    given: dict[str, Any] = {}
    kwargs = {"connect_args": {"timeout": 5}}
    async with PoolManager(
        over("asyncpg", pg_cluster, query), pool_factory_kwargs=kwargs
    ) as manager:
        (pool, *_) = await manager.get_master_pools()

        @event.listens_for(pool.sync_engine, "do_connect")
        def see(_: object, __: object, ___: object, arguments: dict[str, Any]) -> None:
            given.update(arguments)

        async with manager.acquire_master() as connection:
            assert await connection.scalar(text("SHOW work_mem")) == "8MB"
            assert await connection.scalar(text("SHOW application_name")) == "mine"
            with pytest.raises(TimeoutError):
                await connection.execute(text("SELECT pg_sleep(60)"))
    numbers = {"prepared_statement_cache_size": 0, "statement_cache_size": 7, "timeout": 5}
    numbers |= {"max_cached_statement_lifetime": 8, "max_cacheable_statement_size": 99}
    for name, value in {**numbers, "direct_tls": False, "ssl": "disable"}.items():
        assert (given[name], type(given[name])) == (value, type(value))


async def test_arguments_in_the_url_arrive_over_psycopg(pg_cluster: LocalCluster) -> None:
    query = "prepare_threshold=0&autocommit=true&application_name=mine&options=-c%20work_mem%3D8MB"
    async with (
        PoolManager(over("psycopg", pg_cluster, query)) as manager,
        manager.acquire_master() as connection,
    ):
        raw: Any = (await connection.get_raw_connection()).driver_connection
        assert raw.prepare_threshold == 0
        assert raw.autocommit is True
        assert await connection.scalar(text("SHOW work_mem")) == "8MB"
        assert await connection.scalar(text("SHOW application_name")) == "mine"


@pytest.mark.parametrize(
    ("driver", "query", "message"),
    [
        (
            "asyncpg",
            "prepared_statement_name_func=x",
            "_func in the DSN cannot be text.*connect_ar",
        ),
        ("asyncpg", "server_settings=x", "server_settings in the DSN cannot be text"),
        ("asyncpg", "command_timeout=soon", "command_timeout in the DSN must be a number"),
        ("asyncpg", "statement_cache_size=1.5", "statement_cache_size .* must be a whole number"),
        ("asyncpg", "direct_tls=perhaps", "direct_tls in the DSN must be true or false"),
        ("psycopg", "row_factory=x", "row_factory in the DSN cannot be text"),
        ("psycopg", "prepare_threshold=x", "prepare_threshold in the DSN must be a whole number"),
    ],
)
def test_what_cannot_be_read_is_refused_at_once(driver: str, query: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PoolManager(f"postgresql+{driver}://db1,db2/app?{query}")


async def test_ssl_goes_for_the_reserved_connection_as_well(pg_cluster: LocalCluster) -> None:
    for query, words in (
        ("ssl=require", "rejected SSL upgrade"),  # the server has no TLS
        ("ssl=verify-full&sslrootcert=/no/file", "sslrootcert cannot be read"),
        ("ssl=nonsense", "must be one of"),
    ):
        manager = PoolManager(over("asyncpg", pg_cluster, query))
        with pytest.raises(Exception, match=words):
            await manager.ready()
        await manager.close()
    async with PoolManager(over("asyncpg", pg_cluster, "ssl=prefer")) as manager:
        await manager.ready(1, 2)


async def test_hosts_may_be_repeated_with_their_ports(pg_cluster: LocalCluster) -> None:
    before, _, after = pg_cluster.dsn.partition("@")
    hosts, _, database = after.partition("/")
    query = "&".join(f"host={host}" for host in hosts.split(","))
    for driver in ("asyncpg", "psycopg"):
        scheme = before.replace("postgresql", f"postgresql+{driver}", 1)
        async with PoolManager(f"{scheme}@/{database}?{query}") as manager:
            await manager.ready(1, 2)


class Plugin(CreateEnginePlugin):
    """A plugin that takes its argument out of the URL, as SQLAlchemy's documentation describes."""

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        super().__init__(url, kwargs)
        self.argument = url.query["plugins_own"]

    def update_url(self, url: URL) -> URL:
        return url.difference_update_query(["plugins_own"])

    def engine_created(self, engine: Engine) -> None:
        seen.append((self.argument, engine))


seen: list[tuple[object, Engine]] = []


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_plugins_work_with_their_part_of_the_url(
    pg_cluster: LocalCluster, driver: str
) -> None:
    plugins.register("hasql_test", __name__, "Plugin")
    seen.clear()
    tail = "plugins_own=a%20b&application_name=mine"
    for query, kwargs in (
        (f"plugin=hasql_test&{tail}", {}),
        (tail, {"plugins": ["hasql_test"]}),
    ):
        async with PoolManager(
            over(driver, pg_cluster, query), pool_factory_kwargs=kwargs
        ) as manager:
            await manager.ready(1, 2)
            async with manager.acquire_master() as connection:
                assert await connection.scalar(text("SHOW application_name")) == "mine"
            for pool in manager.pools:
                assert ("a b", pool.sync_engine) in seen


async def test_the_engine_shows_no_secret_of_the_url(pg_cluster: LocalCluster) -> None:
    password = re.split("[:@]", pg_cluster.dsn)[2]
    query = "sslpassword=hidden&plugin=hasql_test&plugins_own=x"
    plugins.register("hasql_test", __name__, "Plugin")
    async with PoolManager(over("asyncpg", pg_cluster, query)) as manager:
        for pool in manager.pools:
            assert "hidden" not in f"{pool.url!r} {pool.url.query} {pool!r} {manager!r}"
            assert password not in f"{pool.url!r} {pool!r} {pool.url.render_as_string(False)}"


async def test_all_sessions_have_tls_where_the_url_asks_for_it() -> None:
    if find_local(None, Account.for_servers(), tls=True) is None:
        skip(f"{NONE} PostgreSQL that was built with TLS: apt-get install postgresql")
    async with LocalCluster(replicas=0, tls=True) as cluster:
        dsn = Dsn.parse(cluster.dsn)
        userinfo = f"{dsn.user}:{dsn.password}"
        for query in (
            "ssl=require",
            "ssl=verify-ca&sslrootcert=" + dict(dsn.params)["sslrootcert"],
        ):
            url = f"postgresql+asyncpg://{userinfo}@{dsn.hosts[0]}/app?{query}&application_name=tls"
            async with PoolManager(url) as manager, manager.acquire_master() as connection:
                found = await connection.execute(
                    text(
                        "SELECT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)"
                        " WHERE a.usename = current_user"
                    )
                )
                assert [ssl for (ssl,) in found] == [True, True]  # the reserved one and this one
