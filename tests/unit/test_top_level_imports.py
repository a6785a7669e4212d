"""The directories beside the package import downwards only, and none imports the tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

#: The other directories that each directory may import from.
MAY_IMPORT = {
    "hasql": frozenset[str](),
    "testbed": frozenset({"examples", "hasql"}),
    "benchmarks": frozenset({"hasql", "testbed"}),
    "chaos": frozenset({"hasql", "testbed"}),
    "examples": frozenset({"hasql"}),
    "simulation": frozenset({"hasql", "testbed"}),
}
OURS = {*MAY_IMPORT, "tests", "tools"}


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield all imported modules, also those whose name is a string, or the start of one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"^\w+\.(?=\w)", node.value)


def test_a_directory_imports_what_is_below_it_alone() -> None:
    found = [
        f"{path.relative_to(ROOT).as_posix()} imports {name}"
        for own, others in MAY_IMPORT.items()
        for path in sorted((ROOT / own).rglob("*.py"))
        for name in imported(ast.parse(path.read_text("utf-8")))
        if name.partition(".")[0] in OURS - others - {own}
    ]
    assert found == []
