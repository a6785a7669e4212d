"""The installed package agrees with its sources."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution, distributions, version
from importlib.resources import files
from pathlib import Path

import pytest

import hasql
from testbed.kits.registry import DRIVERS, RegisteredDriver, extras_with

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
NEED_OLD_SQLALCHEMY = set(extras_with("1"))
CONSTRAINTS = sorted(ROOT.glob("constraints*.txt"))
ENTRY_POINTS = {(point.group, point.name): point for point in distribution("hasql").entry_points}


def project_name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return found[0].lower().replace("_", "-")


def pinned(constraints: Path) -> dict[str, str]:
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {project_name(name): number for name, number in pins}


def test_the_installed_version_is_the_one_in_the_sources() -> None:
    assert version("hasql") == hasql.__version__


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    assert files(hasql).joinpath("py.typed").is_file()


def test_the_core_depends_on_nothing() -> None:
    needed = [line for line in distribution("hasql").requires or [] if "extra ==" not in line]
    assert needed == []


@pytest.mark.parametrize(
    "key", [("console_scripts", "hasql"), ("pytest11", "hasql")], ids=lambda key: key[0]
)
def test_an_entry_point_leads_somewhere(key: tuple[str, str]) -> None:
    assert ENTRY_POINTS[key].load() is not None


def test_all_holds_every_extra_that_can_live_beside_the_others() -> None:
    (everything,) = EXTRAS["all"]
    named = re.fullmatch(r"hasql\[(.*)\]", everything)
    assert named
    assert set(named[1].split(",")) == EXTRAS.keys() - {"all"} - NEED_OLD_SQLALCHEMY


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.facade)
def test_every_driver_has_an_extra_and_is_documented(driver: RegisteredDriver) -> None:
    assert driver.extra in EXTRAS
    pages = (ROOT / "README.rst", *(ROOT / "docs").rglob("*.rst"))
    written = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert f"``{driver.facade}``" in written
    assert f"``{driver.extra}``" in written or f"hasql[{driver.extra}]" in written


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.facade)
def test_every_file_of_a_driver_is_there(driver: RegisteredDriver) -> None:
    room = ROOT / "hasql" / "_adapters" / driver.room / "__init__.py"
    kits = [ROOT / "testbed" / "kits" / f"{kit.partition('.')[0]}.py" for kit in driver.kits]
    tests = [ROOT / "tests" / "integration" / test for test in driver.tests]
    assert [path for path in (room, *kits, *tests) if not path.is_file()] == []


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - {"all"}))
def test_every_library_of_an_extra_has_a_lowest_version_and_a_pin(extra: str) -> None:
    old = extra in NEED_OLD_SQLALCHEMY
    pins = pinned(ROOT / ("constraints-sqlalchemy14.txt" if old else "constraints.txt"))
    for requirement in EXTRAS[extra]:
        assert re.search(r">=\d", requirement), requirement
        assert project_name(requirement) in pins, "run `make constraints`"


def test_the_tests_run_with_pinned_versions() -> None:
    installed = {project_name(each.name): each.version for each in distributions()}
    old = installed.get("sqlalchemy", "").startswith("1.")
    pins = pinned(ROOT / ("constraints-sqlalchemy14.txt" if old else "constraints.txt"))
    common = installed.keys() & pins.keys()
    assert "pytest" in common
    assert {name: installed[name] for name in common} == {name: pins[name] for name in common}, (
        "run `make clean`, or `make constraints` for new pins"
    )


@pytest.mark.parametrize("constraints", CONSTRAINTS, ids=lambda path: path.name)
def test_the_pins_name_no_address(constraints: Path) -> None:
    assert not re.search(r"://|@|^-", constraints.read_text("utf-8"), re.MULTILINE)
