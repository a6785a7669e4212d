"""The programs in README and docs/ run, in the environment that has the libraries they import."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from testbed.scene import complaints
from tests.pages import BLOCKS, Block, environment, for_this_environment

if TYPE_CHECKING:
    from pathlib import Path

    from hasql.testing import LocalCluster

PROGRAMS = [
    pytest.param(block, id=str(block))
    for block in BLOCKS
    if block.kind == "program" and for_this_environment(block)
]


@pytest.mark.parametrize("block", PROGRAMS)
def test_a_program_runs(block: Block, pg_cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(block.code)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "program.py"],
        cwd=tmp_path,
        env=environment(DATABASE_URL=pg_cluster.dsn, ENGINE_URL=engine_url(pg_cluster)),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # hasql's log is on the screen: what the page says about a server that was killed or frozen, and
    # that a server has answered late, which may happen on a busy machine.
    of_log = "is down" if ".kill()" in block.code else "is down: NoAnswerError"
    if "promote()" in block.code:
        of_log = f"(?:{of_log}|fenced)"
    heard = re.sub(rf"127\.0\.0\.1:\d+ {of_log}.*\n", "", complaints(done.stderr))
    assert heard == ""


def engine_url(cluster: LocalCluster) -> str:
    """Return a URL for SQLAlchemy's engines: the master by a name, over a driver for both kinds."""
    dsn = cluster.master.dsn
    return dsn.replace("://", "+psycopg://", 1).replace("127.0.0.1", "localhost")
