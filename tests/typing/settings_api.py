"""What a user would write with settings, and at the end of a program, for type checkers to read."""

from typing import Any, assert_type

from hasql import asyncpg
from hasql.diagnostics import LeaseInfo
from hasql.resilience import (
    DrainReport,
    SessionDefaults,
    shutdown_on_signals,
)
from hasql.settings import Settings
from hasql.sync import psycopg3


class AppSettings(Settings, env_file=".env"):
    debug: bool = False


class Own:
    def arguments(self) -> dict[str, Any]:
        return {"dsn": "postgresql://a,b/app"}


async def made_of_settings() -> None:
    Settings(dsn="postgresql://a,b/app", session=SessionDefaults(statement_timeout=5))
    pool = asyncpg.PoolManager.from_settings(Settings())
    assert_type(pool, asyncpg.PoolManager)
    assert_type(psycopg3.PoolManager.from_settings(AppSettings()), psycopg3.PoolManager)
    asyncpg.PoolManager.from_settings(Own())
    asyncpg.PoolManager.from_settings("postgresql://a,b/app")  # type: ignore[arg-type]
    assert_type(AppSettings.of_toml("app.toml", "tool", "hasql"), AppSettings)
    assert_type(AppSettings().debug, bool)
    assert_type(Settings().acquire_timeout, float)


async def ended(pool: asyncpg.PoolManager, sync_pool: psycopg3.PoolManager) -> None:
    shutdown_on_signals(pool, sync_pool, timeout=10)
    shutdown_on_signals("pool")  # type: ignore[arg-type]
    assert_type(await pool.drain(), DrainReport)
    assert_type(sync_pool.drain(timeout=5), DrainReport)
    assert_type((await pool.drain()).broken, tuple[LeaseInfo, ...])
