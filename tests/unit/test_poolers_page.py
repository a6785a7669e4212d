"""The claims of docs/howto/poolers.rst have tests, which the page names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "poolers.rst").read_text("utf-8")
POINTS = re.findall(r"^\* (.+?)(?=^\* |^\w|\Z)", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.split("\n")[0][:40])
def test_each_point_names_tests_that_there_are(point: str) -> None:
    named = re.search(r"^  \.\. Tested by: (.+)$", point, re.MULTILINE)
    assert named is not None, point
    sources = [path.read_text("utf-8") for path in (ROOT / "tests").glob("*/test_*.py")]
    for name in named[1].split(", "):
        assert any(f"def {name}(" in source for source in sources), name


def test_the_page_has_points_on_both() -> None:
    assert len(POINTS) > 10
