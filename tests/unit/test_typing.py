"""What type checkers know of the public API is what `tests/typing/api.py` says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKERS = {
    "mypy": ["mypy", "--strict", "tests/typing"],
    # What it reads, and that it is strict, stands in pyproject.toml.
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
