"""The tests on every Python, with each set of drivers, with none, and with the oldest that work.

    make test-all                   everything; takes a while
    make test-all ARGS="-k dsn"     arguments go to pytest
    .venv/bin/nox --list            the sessions; `nox -s lowest` runs one

A Python that is not here is skipped. Python X.Y is looked for as `pythonX.Y`.
"""

import os
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.5.1"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: Has wheels of the oldest drivers.
OLDEST = PYTHONS[0]
PINS = Path("constraints.txt")
PINS_14 = Path("constraints-sqlalchemy14.txt")
EXTRAS: dict[str, list[str]] = nox.project.load_toml("pyproject.toml")["project"][
    "optional-dependencies"
]
# As a script, as there may be another `tests` in the environment of nox.
EXTRAS_WITH = runpy.run_path("testbed/kits/registry.py")["extras_with"]
DRIVERS: tuple[str, ...] = EXTRAS_WITH("2")
DRIVERS_14: tuple[str, ...] = EXTRAS_WITH("1")

# pyenv's `pythonX.Y` starts nothing that is not selected: select all there are.
if "PYENV_VERSION" not in os.environ and (pyenv := shutil.which("pyenv")):
    versions = subprocess.run(  # noqa: S603  # the user's own pyenv
        [pyenv, "versions", "--bare"], capture_output=True, text=True, check=False
    )
    os.environ["PYENV_VERSION"] = ":".join(versions.stdout.split())


@nox.session(python=PYTHONS)
def sqlalchemy2(session: nox.Session) -> None:
    """Run all tests, as `make test` does first."""
    install(session, PINS, "--editable", ".[all]", "--group", "dev")
    pytest(session)


@nox.session(python=PYTHONS)
def sqlalchemy14(session: nox.Session) -> None:
    """Run the tests of the drivers that need SQLAlchemy 1.4, as `make test` does next."""
    install_14(session, PINS_14)
    pytest(session, "--suite=sqlalchemy14")


@nox.session(python=PYTHONS)
def without_extras(session: nox.Session) -> None:
    """Run the tests of the core, with no driver installed."""
    install(session, PINS, "--editable", ".", "--group", "test")
    pytest(session, "--suite=core")


@nox.session(python=OLDEST)
def lowest(session: nox.Session) -> None:
    """Run the drivers' tests with the lowest versions that pyproject.toml states."""
    wanted = [*lowest_versions(DRIVERS)]
    # The tests need libpq as well, which comes in a wheel of psycopg's version. (The extra `binary`
    # of psycopg 3.2.0 asks for one that was never released.)
    wanted += [line.replace("psycopg", "psycopg-binary") for line in wanted if "psycopg=" in line]
    extras = f".[dns,testing,{','.join(DRIVERS)}]"
    constraints = with_lowest(session, PINS, wanted)
    install(session, constraints, "--editable", extras, "psycopg-binary", "--group", "test")
    pytest(session, "--suite=drivers")


@nox.session(python=OLDEST)
def lowest_sqlalchemy14(session: nox.Session) -> None:
    """The same for the drivers that need SQLAlchemy 1.4."""
    install_14(session, with_lowest(session, PINS_14, [*lowest_versions(DRIVERS_14)]))
    pytest(
        session,
        "--suite=sqlalchemy14",
        "--deselect=tests/unit/test_packaging.py::test_the_tests_run_with_pinned_versions",
    )


def install(session: nox.Session, constraints: Path, *what: str) -> None:
    """Install as tools/venv.sh does: what builds packages has its pin as well."""
    pip = ("--constraint", str(constraints))
    session.install(*pip, "--upgrade", "pip", "hatchling", "editables", "setuptools")
    session.install(*pip, "--no-build-isolation", *what)


def install_14(session: nox.Session, constraints: Path) -> None:
    """Install what the `sqlalchemy14` suite needs."""
    extras = f".[dns,testing,{','.join(DRIVERS_14)}]"
    install(session, constraints, "--editable", extras, "--group", "test")


def pytest(session: nox.Session, *options: str) -> None:
    """Run the tests, all of them or those of a suite."""
    if options:
        options = ("-p", "tests.suites", *options)
    session.run(
        "python",
        "-m",
        "pytest",
        f"--override-ini=cache_dir=.nox/.pytest_cache/{session.name}",
        *options,
        *session.posargs,
        # What was asked for need not be in every session's suite.
        success_codes=[0, 5] if session.posargs else [0],
    )


def lowest_versions(extras: tuple[str, ...]) -> Iterator[str]:
    """Read the lowest versions of what these extras bring, as pins."""
    for extra in extras:
        for requirement in map(Requirement, EXTRAS[extra]):
            (version,) = (each.version for each in requirement.specifier if each.operator == ">=")
            yield f"{requirement.name}=={version}"


def with_lowest(session: nox.Session, pins: Path, wanted: list[str]) -> Path:
    """Write constraints with the lowest versions in the place of the pins."""
    replaced = {line.partition("==")[0].lower() for line in wanted}
    kept = [
        line
        for line in pins.read_text(encoding="utf-8").splitlines()
        if line.partition("==")[0].lower() not in replaced
    ]
    constraints = Path(session.create_tmp()) / pins.name
    constraints.write_text("\n".join([*kept, *dict.fromkeys(wanted), ""]), encoding="utf-8")
    return constraints
