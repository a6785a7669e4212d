"""A pytest plugin that selects the tests that an environment is meant for.

    python -m pytest -p tests.suites --suite sqlalchemy14

The other files are not imported, even when they are named on the command line: the same command
line goes to every environment, and each runs its part of it.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.kits.registry import DRIVERS

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[1]

#: The tests on real servers that run in each environment, with the drivers that are there.
OF_DRIVERS = (
    "tests/integration/test_drivers*.py",
    "tests/integration/test_several_servers.py",
    "tests/integration/test_sql_discovery.py",
    "tests/integration/test_mission_programs.py",
)


def of_each_driver(sqlalchemy: str) -> tuple[str, ...]:
    """Return the files about single drivers that need this major version of SQLAlchemy."""
    here = (driver for driver in DRIVERS if driver.sqlalchemy == sqlalchemy)
    return tuple(f"tests/integration/{test}" for driver in here for test in driver.tests)


#: The files of each suite by its name; "!" takes files out again. The full run is not among them.
SUITES: dict[str, tuple[str, ...]] = {
    # Without any extra: no driver, and no library of the command line's.
    "core": (
        "tests/unit/*.py",
        "tests/property/*.py",
        "!tests/unit/test_rate_strategies.py",  # needs limits
        "!tests/unit/test_settings.py",  # needs pydantic
        "!tests/unit/test_provable_reads.py",  # needs SQLAlchemy
        "!tests/unit/test_demo_report.py",  # needs rich
        "!tests/unit/test_source_of_a_dsn.py",  # needs the libraries for DNS and Patroni
        "!tests/unit/test_typing.py",  # runs the type checkers
    ),
    # With the drivers that work with SQLAlchemy 2, or without SQLAlchemy.
    "drivers": (*OF_DRIVERS, "tests/integration/test_sync_*.py", *of_each_driver("2")),
    # With the drivers that need SQLAlchemy 1.4.
    "sqlalchemy14": (
        *OF_DRIVERS,
        *of_each_driver("1"),
        "tests/integration/test_chaos.py",
        "tests/integration/test_chaos_commits.py",
        "tests/integration/test_chaos_units.py",
        "tests/integration/test_docs_programs.py",
        "tests/unit/test_import_layers.py",
        "tests/unit/test_packaging.py",
    ),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--suite", choices=SUITES, required=True, help="the suite to keep to")


def belongs(path: Path, config: pytest.Config) -> bool:
    """Whether a file belongs to the suite; a directory always does."""
    if path.is_dir():
        return True
    patterns = SUITES[config.getoption("--suite")]
    place = path.resolve().as_posix().removeprefix(f"{ROOT.as_posix()}/")
    matched = [pattern for pattern in patterns if fnmatch(place, pattern.removeprefix("!"))]
    return bool(matched) and not any(pattern.startswith("!") for pattern in matched)


def pytest_configure(config: pytest.Config) -> None:
    # pytest does not call `pytest_ignore_collect` for files named on the command line.
    there = config.invocation_params.dir
    config.args = [each for each in config.args if belongs(there / each.partition("::")[0], config)]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if belongs(collection_path, config) else True
