"""Reads the pages of the documentation, and the code blocks in them.

A block that is not run has the reason in a comment just before it::

    .. not run: it takes a Kubernetes cluster

    .. code-block:: yaml
"""

from __future__ import annotations

import ast
import os
import re
import textwrap
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = (
    "BLOCKS",
    "DOCS",
    "PAGES",
    "README",
    "ROOT",
    "Block",
    "environment",
    "for_this_environment",
)

ROOT = Path(__file__).parents[1]
README = ROOT / "README.rst"
DOCS = tuple(sorted(path for path in (ROOT / "docs").rglob("*.rst") if "_build" not in path.parts))
PAGES = (README, ROOT / "CONTRIBUTING.rst", *DOCS)

_BLOCK = re.compile(r"(?P<indent> *)\.\. code-block:: (?P<language>\w+)\n")
_NOT_RUN = re.compile(r" *\.\. not run: (?P<reason>.+)")
_NEED_OLD_SQLALCHEMY = ("hasql.aiopg_sa", "hasql.asyncpgsa")


@dataclass(frozen=True)
class Block:
    """One code block."""

    page: Path
    language: str
    code: str
    #: Where the first line of its code stands on the page.
    line: int
    #: Why it is not run, or None if it is.
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).with_suffix('')}-{self.line}"

    @property
    def kind(self) -> str:
        """Whether it is a program, a test file or a fragment; if not Python, its language."""
        if self.language != "python":
            return self.language
        body = ast.parse(self.code).body
        if any(isinstance(x, ast.FunctionDef) and x.name.startswith("test_") for x in body):
            return "test file"
        last = ast.unparse(body[-1])
        return "program" if last.startswith("asyncio.run(") or last == "main()" else "fragment"


def for_this_environment(block: Block) -> bool:
    """Whether a block is meant for the version of SQLAlchemy that is installed here, 1.4 or 2."""
    try:
        old = version("SQLAlchemy").startswith("1.")
    except PackageNotFoundError:
        old = False
    return any(name in block.code for name in _NEED_OLD_SQLALCHEMY) == old


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a user's program, in which hasql can be imported."""
    result = {**os.environ, **more}
    try:
        distribution("hasql")
    except PackageNotFoundError:
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        result["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return result


def _blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text("utf-8").splitlines(keepends=True)
    reason = None
    for number, line in enumerate(lines):
        if found := _NOT_RUN.match(line):
            reason = found["reason"]
        elif found := _BLOCK.fullmatch(line):
            code = []
            for each in lines[number + 1 :]:
                if each.strip() and not each.startswith(found["indent"] + "   "):
                    break
                code.append(each)
            first = next(i for i, each in enumerate(code) if each.strip())
            text = textwrap.dedent("".join(code)).strip("\n") + "\n"
            yield Block(page, found["language"], text, number + 2 + first, reason)
            reason = None


BLOCKS = tuple(block for page in PAGES for block in _blocks(page))
