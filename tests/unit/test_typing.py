"""Type checkers understand the public API as `tests/typing/api.py` says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKERS = {
    "mypy": ["mypy", "--strict", "tests/typing"],
    # Its files and its strict mode are set in pyproject.toml.
    "pyright": ["basedpyright", "--pythonpath", sys.executable],
}


@pytest.mark.timeout(300)  # without a cache mypy reads the standard library first
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_type_checker_knows_the_api(checker: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *CHECKERS[checker]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
