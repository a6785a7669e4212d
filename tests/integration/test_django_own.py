"""Django's own tests of its database layer, with hasql's backend on a cluster."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hasql.testing import LocalCluster
from hasql.testing._account import Account
from hasql.testing.binaries import find_local
from testbed.django_project import databases_of
from tests.middlemen import skip

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
#: `make` fetches Django's tests with the rest of the environment.
TESTS = Path(sys.prefix) / "django-tests" / "tests"
#: The modules that say most about a backend, and take a minute.
MODULES = (
    "backends",
    "basic",
    "transactions",
    "transaction_hooks",
    "multiple_database",
    "select_for_update",
    "dbshell",
    "inspectdb",
    "introspection",
    "async",
    "timezones",
    "raw_query",
    "get_or_create",
    "servers",
    "postgres_tests",
)
_USER = "django_own"


@pytest.fixture
def databases() -> Iterator[str]:
    """The DATABASES setting, for a PostgreSQL that has all its extensions and ICU's collations."""
    if find_local(None, Account.for_servers()) is None:
        skip("there is no PostgreSQL but the wheel's: apt-get install postgresql")
    with LocalCluster(replicas=1, source="local") as cluster:
        role = f"CREATE ROLE {_USER} SUPERUSER LOGIN PASSWORD '{_USER}'"
        asyncio.run(cluster.master.sql(role))
        default, _ = databases_of(cluster, _USER).values()
        default.update(ENGINE="testbed.django_own", USER=_USER, PASSWORD=_USER)
        yield json.dumps({"default": default, "other": {**default, "NAME": "other"}})


@pytest.mark.timeout(300)
def test_djangos_own_tests_pass(databases: str) -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "runtests.py", "--noinput", "--parallel=1"),
            *("--settings=testbed.django_own.settings", *MODULES),
        ],
        cwd=TESTS,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HASQL_DJANGO_OWN": databases},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    count = re.search(r"^Ran (\d+) tests", result.stderr, re.MULTILINE)
    assert result.returncode == 0, result.stderr[-20_000:]
    assert count is not None
    assert int(count[1]) > 1000
