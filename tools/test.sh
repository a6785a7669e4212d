#!/bin/sh
# Run the tests in both environments that make has made; arguments go to pytest. All runs are done,
# and it fails if one of them does.
#
# Without arguments chaos comes first, in both environments at the same time: it measures under a
# load of its own, which leaves the machine idle half the time. Then several workers share the rest
# of the first environment, while one has all of the second. What is selected by arguments starts
# sooner without.
set -u
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
chaos=tests/integration/test_chaos.py
threads=tests/integration/test_chaos_threads.py # of the first environment alone
logs=$(mktemp -d "${TMPDIR:-/tmp}/make-test-XXXXXX") || exit 1
beside=
compiling=
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
    [ -z "$beside$compiling" ] || kill $beside $compiling 2>/dev/null
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
    failed=".pytest_cache/v/cache/lastfailed .pytest_cache/sqlalchemy14/v/cache/lastfailed"
    rm -f $failed # what has failed before is run again
    # Ports are shared out by the numbers of workers.
    workers=${WORKERS:-3}
    shared="--dist loadgroup --no-loadscope-reorder"
    $second $shared --tx "popen//id=gw$workers" >"$logs/second.log" 2>&1 &
    beside=$!
    # Each of the workers would compile all tests for itself, as they begin at once.
    nice $first --collect-only --quiet -p no:cacheprovider >"$logs/collected.log" 2>&1 &
    compiling=$!
    $first "$chaos" "$threads"
    note $?
    wait "$compiling" # what fails here fails again below
    compiling=
    $first --ignore="$chaos" --ignore="$threads" $shared --numprocesses "$workers"
    note $?
    wait "$beside"
    note $?
    beside=
    cat "$logs/second.log"
    # It is said far above, or not at all where only the end of this is kept.
    sed -n 's/^ *"\(.*\)": true,*$/failed: \1/p' $failed 2>/dev/null
fi
exit "$outcome"
