#!/bin/sh
# Run the tests in both environments that make has made. Arguments go to pytest. All runs are
# carried out, and this script fails if one of them fails.
#
# Without arguments, the chaos tests come first, in both environments at the same time. They measure
# under a load of their own, which leaves the machine idle half the time. Then several workers share
# the rest of the first environment, while one worker runs all of the second. With arguments there
# are no workers, because the selected tests start sooner without them.
set -u
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
chaos=tests/integration/test_chaos.py
threads=tests/integration/test_chaos_threads.py # in the first environment only
logs=$(mktemp -d "${TMPDIR:-/tmp}/make-test-XXXXXX") || exit 1
beside=
compiling=
outcome=5 # pytest's exit code when it has selected nothing

# With this set, each worker, and each program of many tests, would compile all modules for itself.
unset PYTHONDONTWRITEBYTECODE

# A string, not a function: a function in the background runs in a shell's process, and `kill` would
# end that shell instead of pytest.
second="$venv-sqlalchemy14/bin/python -m pytest -p tests.suites --suite sqlalchemy14
    -o cache_dir=.pytest_cache/sqlalchemy14"
first="$venv/bin/python -m pytest"

# Keep the worst exit code. Selecting nothing is no failure if another run has selected something.
note() {
    case $1 in
    0) [ "$outcome" -ne 5 ] || outcome=0 ;;
    5) ;;
    *) case $outcome in 0 | 5) outcome=$1 ;; esac ;;
    esac
}

# When interrupted, pytest ends by itself, and this script would go on to the next run. A run in the
# background does not get the interrupt.
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
    rm -f $failed # the runs below write these files anew
    # Tests choose their ports by the number of their worker, so this run needs a number of its own.
    workers=${WORKERS:-3}
    shared="--dist loadgroup --no-loadscope-reorder"
    $second $shared --tx "popen//id=gw$workers" >"$logs/second.log" 2>&1 &
    beside=$!
    # Compile all tests now: the workers begin together, and each would compile them for itself.
    nice $first --collect-only --quiet -p no:cacheprovider >"$logs/collected.log" 2>&1 &
    compiling=$!
    $first "$chaos" "$threads"
    note $?
    wait "$compiling" # an error here comes again below
    compiling=
    $first --ignore="$chaos" --ignore="$threads" $shared --numprocesses "$workers"
    note $?
    wait "$beside"
    note $?
    beside=
    cat "$logs/second.log"
    # Repeat the failures: they stand far above, or are lost where only the end of this is kept.
    sed -n 's/^ *"\(.*\)": true,*$/failed: \1/p' $failed 2>/dev/null
fi
exit "$outcome"
