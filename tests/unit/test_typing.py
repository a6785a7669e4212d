"""What type checkers know of the public API is what `tests/typing/api.py` says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(120)  # without a cache mypy reads the standard library first
def test_a_type_checker_knows_the_api() -> None:
    pytest.importorskip("mypy")
    pytest.importorskip("asyncpg-stubs", reason="asyncpg has its types from asyncpg-stubs")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "tests/typing/api.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
