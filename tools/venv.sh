#!/bin/sh
# Make the checkout's virtual environment, or do nothing when it is there already.
#
#   tools/venv.sh demo    what `hasql demo` needs
#   tools/venv.sh dev     everything that SQLAlchemy 2 can live with: tests, linters, extras
#   tools/venv.sh sqlalchemy14    what the tests of the drivers that need SQLAlchemy 1.4 need
#   tools/venv.sh none    remove it, if this script made it
#
# VENV    where to make it (default: .venv in the checkout)
# PYTHON  the Python to make it with (default: the newest tested one that is found)
# CONSTRAINTS  the versions to install (default: constraints.txt, or that of SQLAlchemy 1.4)
#
# Whatever stops this script half way, the next run begins anew.
set -eu

# Settings meant for other environments would install into the wrong place or import from it.
unset PIP_PREFIX PIP_TARGET PIP_USER PYTHONHOME PYTHONPATH

say() { printf 'hasql: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

# Does this command start, and is it a Python that can make a virtual environment? A command may
# exist and not start (a version manager's stand-in), or lack ensurepip (Debian without
# python3-venv).
suitable() {
    "$1" -c 'import ensurepip, ssl, sys, venv; sys.exit(sys.version_info < (3, 11))' \
        >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        suitable "$PYTHON" || fail "PYTHON=$PYTHON does not start, is older than 3.11, or has no" \
            "venv module (on Debian and Ubuntu: apt-get install python3-venv)."
        python=$PYTHON
        return
    fi
    for python in python3.13 python3.12 python3.11 python3 python; do
        if suitable "$python"; then return; fi
    done
    fail "no Python >= 3.11 with the venv module was found as python3.13, python3.12, python3.11," \
        "python3 or python. Install one (on Debian and Ubuntu: apt-get install python3-venv), or" \
        "name it: make PYTHON=/path/to/python3"
}

version_of() { "$1" -c 'import sys; print(sys.version)' 2>/dev/null; }

kind=$1
case $kind in
demo | dev | none) pins=constraints.txt ;;
sqlalchemy14) pins=constraints-sqlalchemy14.txt ;;
*) fail "usage: tools/venv.sh demo|dev|sqlalchemy14|none" ;;
esac
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
constraints=${CONSTRAINTS:-$pins}
case $venv in /*) place=$venv ;; *) place=$PWD/$venv ;; esac

# Scripts in a virtual environment hold its path, and ours points at the checkout: one that was
# moved or copied along with the checkout is of no use.
owner="$PWD|$place"
# What the environment is made from: contents, not times, so that changing branches is cheap.
key=$({
    cat pyproject.toml "$constraints" tools/venv.sh tools/django_tests.sh testbed/kits/registry.py
    grep '^__version__' hasql/__init__.py
} | cksum)

is_whole() {
    [ ! -e "$venv/.hasql-busy" ] &&
        [ "$(cat "$venv/.hasql-owner" 2>/dev/null)" = "$owner" ] &&
        [ -n "$(version_of "$venv/bin/python")" ] &&
        { [ -z "${PYTHON:-}" ] ||
            [ "$(version_of "$PYTHON")" = "$(version_of "$venv/bin/python")" ]; }
}
# The owner's mark goes last: what an interrupted removal leaves must stay known as ours.
empty() {
    [ ! -d "$venv" ] ||
        find "$venv" -mindepth 1 -maxdepth 1 ! -name .hasql-owner -exec rm -rf {} +
}
has() { [ "$(cat "$venv/.hasql-$1" 2>/dev/null)" = "$key" ]; }

if [ "$kind" = none ]; then
    if [ -e "$venv/.hasql-owner" ]; then
        empty
        rm -rf "$venv"
    fi
    exit 0
fi

is_current() { is_whole && { has "$kind" || { [ "$kind" = demo ] && has dev; }; }; }
if is_current; then exit 0; fi

# Two makes at once: one installs, the other waits for it. Where there is no flock, or no right to
# write, we go on without.
if command -v flock >/dev/null && (: >>"$venv.lock") 2>/dev/null; then
    exec 9>>"$venv.lock"
    flock --nonblock 9 || { say "waiting for another make to finish with $venv" && flock 9; }
    if is_current; then exit 0; fi
fi

if ! is_whole; then
    find_python
    if [ -d "$venv" ] && [ ! -e "$venv/.hasql-owner" ] && [ -n "$(ls -A "$venv")" ]; then
        fail "$venv is there and was not made by make: remove it, or name another place:" \
            "make VENV=/path/to/venv"
    fi
    say "making $venv with $("$python" -c \
        'import platform, sys; print("Python", platform.python_version(), "at", sys.executable)')"
    { empty && mkdir -p "$venv"; } 2>/dev/null ||
        fail "cannot write to $place. Name another place: make VENV=/path/to/venv"
    printf '%s\n' "$owner" >"$venv/.hasql-owner"
    : >"$venv/.hasql-busy"
    "$python" -m venv "$venv" || fail "$python could not make a virtual environment in $venv."
fi

: >"$venv/.hasql-busy" ||
    fail "cannot write to $place. Name another place: make VENV=/path/to/venv"
rm -f "$venv/.hasql-demo" "$venv/.hasql-dev" "$venv/.hasql-sqlalchemy14"

# The build backend comes from the constraints too, hence no build isolation. Byte-compiling every
# module would take longer than compiling those that are imported, when they are.
install() {
    "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --no-compile \
        --constraint "$constraints" "$@" ||
        fail "installing failed: see above. The next run begins anew."
}
case $kind in
demo)
    say "installing hasql, asyncpg and PostgreSQL's binaries into $venv, as pinned in $constraints"
    install hatchling editables
    install --no-build-isolation --editable '.[cli]'
    ;;
dev)
    say "installing hasql, its extras and the test tools into $venv, as pinned in $constraints"
    # Dependency groups need a newer pip than the one Python 3.11 brings.
    install --upgrade 'pip>=25.1' hatchling editables
    install --no-build-isolation --editable '.[all]' --group dev
    sh tools/django_tests.sh "$venv" || fail "see above."
    ;;
sqlalchemy14)
    say "installing hasql, the drivers for SQLAlchemy 1.4 and pytest into $venv, as pinned in" \
        "$constraints"
    # asyncpgsa is there as a source distribution only, which setuptools builds.
    install --upgrade 'pip>=25.1' hatchling editables setuptools
    drivers=$("$venv/bin/python" testbed/kits/registry.py 1) || fail "see above."
    install --no-build-isolation --editable ".[$drivers,dns,testing]" --group test
    ;;
esac

printf '%s\n' "$key" >"$venv/.hasql-$kind"
rm -f "$venv/.hasql-busy"
