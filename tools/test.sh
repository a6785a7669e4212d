#!/bin/sh
# Run the tests in both environments that make has made; arguments go to pytest. All runs are done,
# and it fails if one of them does.
#
# Without arguments three things go on beside each other: chaos in the first environment, which plays
# many faults one after the other; several workers, which share the rest of it; and one for all of the
# second environment, with its chaos at the end. What is selected by arguments starts sooner without.
set -u
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
chaos=tests/integration/test_chaos.py
threads=tests/integration/test_chaos_threads.py # of the first environment alone
logs=$(mktemp -d "${TMPDIR:-/tmp}/make-test-XXXXXX") || exit 1
beside=
outcome=5 # what pytest says when it has selected nothing

# Each worker, and many a test's program, would compile all modules for itself.
unset PYTHONDONTWRITEBYTECODE

# Not by a function where it runs in the background: its process would be a shell's, which is no use
# to `kill`.
second="$venv-sqlalchemy14/bin/python -m pytest -p tests.suites --suite sqlalchemy14
    -o cache_dir=.pytest_cache/sqlalchemy14"
first="$venv/bin/python -m pytest"

# Keep the worst that was said. Nothing selected is no failure if another run has selected something.
note() {
    case $1 in
    0) [ "$outcome" -ne 5 ] || outcome=0 ;;
    5) ;;
    *) case $outcome in 0 | 5) outcome=$1 ;; esac ;;
    esac
}

# pytest ends by itself when interrupted, and what is left to run would begin. A run in the
# background does not hear of it.
interrupted() {
    [ -z "$beside" ] || kill $beside 2>/dev/null
    cat "$logs"/*.log 2>/dev/null
    exit 130
}
trap interrupted INT TERM
trap 'rm -rf "$logs"' EXIT

if [ "$#" -gt 0 ]; then
    $first "$@"
    note $?
    $second "$@"
    note $?
else
    # Ports are shared out by the numbers of workers.
    workers=${WORKERS:-3}
    shared="--dist loadgroup --no-loadscope-reorder"
    $first "$chaos" "$threads" >"$logs/chaos.log" 2>&1 &
    playing=$!
    $second $shared --tx "popen//id=gw$workers" >"$logs/second.log" 2>&1 &
    beside="$playing $!"
    $first --ignore="$chaos" --ignore="$threads" $shared --numprocesses "$workers"
    note $?
    for each in $beside; do
        wait "$each"
        note $?
    done
    beside=
    cat "$logs/chaos.log" "$logs/second.log"
fi
exit "$outcome"
