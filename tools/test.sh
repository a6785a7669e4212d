#!/bin/sh
# Run the tests in both environments that make has made; arguments go to pytest. Both runs are done,
# and it fails if one of them does.
#
# Without arguments both run at once, and several workers share the tests of an environment: most
# tests wait more than they work. What is selected by arguments starts sooner without workers.
set -u
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
logs=$(mktemp -d "${TMPDIR:-/tmp}/make-test-XXXXXX") || exit 1
second_run=

# Each worker, and many a test's program, would compile all modules for itself.
unset PYTHONDONTWRITEBYTECODE

run_first() { "$venv/bin/python" -m pytest "$@"; }
run_second() {
    "$venv-sqlalchemy14/bin/python" -m pytest -p tests.suites --suite sqlalchemy14 \
        -o cache_dir=.pytest_cache/sqlalchemy14 "$@"
}

# pytest ends by itself when interrupted, and what is left to run would begin. A run in the
# background does not hear of it.
interrupted() {
    [ -z "$second_run" ] || kill "$second_run" 2>/dev/null
    exit 130
}
trap interrupted INT TERM
trap 'rm -rf "$logs"' EXIT

if [ "$#" -gt 0 ]; then
    run_first "$@"
    first=$?
    run_second "$@"
    second=$?
else
    # The first environment has four times as much to do. What keeps two cores busy is more than
    # they bear where tests measure. A worker's ports follow from its number.
    workers=${WORKERS:-3}
    # Not by the function: its process would be a shell's, which is no use to `kill`.
    "$venv-sqlalchemy14/bin/python" -m pytest -p tests.suites --suite sqlalchemy14 \
        -o cache_dir=.pytest_cache/sqlalchemy14 --dist loadgroup --no-loadscope-reorder \
        --tx "popen//id=gw$workers" >"$logs/second.log" 2>&1 &
    second_run=$!
    run_first --numprocesses "$workers" --dist loadgroup --no-loadscope-reorder
    first=$?
    wait "$second_run"
    second=$?
    second_run=
    cat "$logs/second.log"
fi

# pytest says 5 when nothing was selected: no failure if something was in the other environment.
case $first in
0) [ "$second" -eq 5 ] || exit "$second" ;;
5) exit "$second" ;;
*) exit "$first" ;;
esac
