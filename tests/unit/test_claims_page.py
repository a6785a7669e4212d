"""The page of claims: each test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "moving" / "from-alchemy-h8.rst"
TEXT = PAGE.read_text("utf-8")
NAMED = re.findall(r"``(?:tests/\w+/)?(test_\w+\.py)(?:::(test_\w+))?``", TEXT)


def test_each_claim_names_a_test() -> None:
    rows = re.findall(r"^   \* - (?!Problem).*\n     - (.*)$", TEXT, re.MULTILINE)
    assert len(rows) > 40
    assert len(rows) == len(NAMED)


@pytest.mark.parametrize(("module", "function"), sorted(set(NAMED)))
def test_the_test_is_there(module: str, function: str) -> None:
    (path,) = TESTS.rglob(module)
    tree = ast.parse(path.read_text("utf-8"))
    names = {
        x.name for x in ast.walk(tree) if isinstance(x, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert function in names if function else any(name.startswith("test_") for name in names)
