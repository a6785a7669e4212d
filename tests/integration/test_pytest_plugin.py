"""The pytest plugin works as an application uses it, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

_SYNC = """
import pytest

def test_has_one_master_and_two_replicas(pg_cluster):
    assert len(pg_cluster.replicas) == 2
    pg_cluster.master.kill()

def test_is_whole_again_after_a_kill(pg_cluster):
    assert len(pg_cluster.replicas) == 2
    for node in pg_cluster.nodes:
        node.freeze()

def test_is_whole_again_after_a_freeze(pg_cluster):
    assert len(pg_cluster.replicas) == 2
    for replica in pg_cluster.replicas:
        replica.request_promotion()

def test_is_whole_again_after_a_split(pg_cluster):
    assert len(pg_cluster.replicas) == 2
"""

_ASYNC = """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_serves_async_tests(pg_cluster):
    new = await pg_cluster.switchover()
    assert pg_cluster.master is new
    assert (await new.sql("SHOW server_version")).startswith("16.")
    kept = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'"
    assert (await new.sql(kept)).startswith("SCRAM-SHA-256$1:"), "logins are quick"
"""


def _pytest(directory: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(code)
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    # The plugin is named in case it is not installed. If it is, its entry point must not load it
    # a second time.
    plugins = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "hasql.testing.pytest_plugin", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": paths, **plugins},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_each_test_gets_a_whole_cluster_whatever_the_last_one_did(tmp_path: Path) -> None:
    done = _pytest(tmp_path, _SYNC)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_the_project_chooses_the_version_and_async_tests_are_served(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nhasql_pg_version = 16\n")
    done = _pytest(tmp_path, _ASYNC, "-p", "anyio", "--pg-source=wheel")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_a_version_that_is_no_number_is_refused(tmp_path: Path) -> None:
    done = _pytest(tmp_path, _SYNC, "--pg-version=newest", "-k", "one_master")
    assert done.returncode != 0
    assert "is not a major version" in done.stdout + done.stderr


def test_loading_the_plugin_imports_no_cluster() -> None:
    code = (
        "import sys, hasql.testing.pytest_plugin\n"
        "print([name for name in sys.modules if name.startswith('hasql.testing.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout.strip() == "['hasql.testing.pytest_plugin']"
